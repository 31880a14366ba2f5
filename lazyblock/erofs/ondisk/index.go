package ondisk

import (
	"context"
	"encoding/binary"
	"math"

	"github.com/referee-cri/referee/internal/reason"
)

// Types of logical clusters: the low two bits of an index. A head says that
// another stored cluster begins in its logical one, and where.
const (
	typePlain  = 0 // a head: stored as it is
	typeHead   = 1 // a head: compressed with the first algorithm
	typeInner  = 2 // nothing begins here
	typeSecond = 3 // a head: compressed with the second algorithm

	// countsBlocks is in the distance of the logical cluster behind a head: the rest
	// is how many blocks the stored cluster has (Z_EROFS_LI_D0_CBLKCNT).
	countsBlocks = 1 << 11

	fullIndexSize = 8
)

// head is where a stored cluster begins.
type head struct {
	at     int64 // in the file
	off    int64 // in the image
	stored int64
	plain  bool
}

// logical is the index of a logical cluster.
type logical struct {
	kind  uint8
	low   uint32 // of a head: where in the logical cluster it begins; else the distance back, or a count of blocks
	block uint32 // of a head
}

// heads reads the indexes of a file, in windows, and returns where they end in the
// image.
func (i *Image) heads(ctx context.Context, f *File, h clusterHeader) (heads []head, end int64, err error) {
	count := (f.size-1)>>h.bits + 1
	if count > i.pages.image.Size() { // each takes 2 bytes at least
		return nil, 0, corrupt("%d logical clusters in an image of %d bytes", count, i.pages.image.Size())
	}
	g := gathering{image: i, header: h, size: f.size}
	if f.layout == layoutCompressed {
		end, err = g.full(ctx, count)
	} else {
		end, err = g.compact(ctx, count)
	}
	if err == nil && len(g.heads) == 0 {
		err = corrupt("no cluster begins in it")
	}
	return g.heads, end, err
}

// gathering collects heads from the indexes as they come.
type gathering struct {
	image  *Image
	header clusterHeader
	size   int64
	next   int64 // logical cluster
	heads  []head
	fresh  bool // the last index was of a head
}

// add takes the next index.
func (g *gathering) add(l logical) error {
	if l.kind == typeInner {
		return g.inner(l)
	}
	at := g.next<<g.header.bits + int64(l.low)
	first := g.next == 0
	g.next, g.fresh = g.next+1, true
	switch {
	case l.low >= 1<<g.header.bits || first && l.low != 0:
		return corrupt("a cluster begins at %d of logical cluster %d", l.low, g.next-1)
	case at >= g.size: // the end is marked like a beginning
		return nil
	case l.kind == typeSecond && !g.header.second:
		return reason.Errorf(reason.NotAttachable, "its second algorithm is not LZ4, which alone is read here")
	case len(g.heads) == maxExtents:
		return corrupt("more than %d clusters", maxExtents)
	}
	g.heads = append(g.heads, head{
		at: at, off: int64(l.block) << g.image.BlockBits, stored: 1 << g.header.bits, plain: l.kind == typePlain,
	})
	return nil
}

// inner takes an index of a logical cluster in which nothing begins.
func (g *gathering) inner(l logical) error {
	counts, big := l.low&countsBlocks != 0, g.header.big()
	switch {
	case len(g.heads) == 0:
		return corrupt("its first logical cluster has no beginning")
	case counts && (!big || !g.fresh):
		return corrupt("logical cluster %d counts blocks of no cluster", g.next)
	case !counts && big && g.fresh && !g.heads[len(g.heads)-1].plain:
		return corrupt("logical cluster %d does not count the blocks of its cluster", g.next)
	case counts:
		g.heads[len(g.heads)-1].stored = int64(l.low&^countsBlocks) << g.image.BlockBits
	}
	g.next, g.fresh = g.next+1, false
	return nil
}

// full reads indexes of 8 bytes.
func (g *gathering) full(ctx context.Context, count int64) (end int64, err error) {
	le := binary.LittleEndian
	at := g.header.start
	for left := count; left > 0; {
		n := min(left, pageSize/fullIndexSize)
		b, err := g.image.pages.read(ctx, at, n*fullIndexSize)
		if err != nil {
			return 0, err
		}
		for ; len(b) > 0; b = b[fullIndexSize:] {
			l := logical{kind: uint8(le.Uint16(b) & 3), low: uint32(le.Uint16(b[2:])), block: le.Uint32(b[4:])}
			if l.kind == typeInner {
				l.low = uint32(le.Uint16(b[4:]))
			}
			if err := g.add(l); err != nil {
				return 0, err
			}
		}
		at, left = at+n*fullIndexSize, left-n
	}
	return at, nil
}

// Packs of compacted indexes: bit fields, and the block before that of the first
// head, or of the first cluster that is counted there.
const (
	packBlockSize = 4
	longPack      = 2 // indexes in 8 bytes
	longPackSize  = 8
	shortPack     = 16 // indexes in 32 bytes
	shortPackSize = 32
)

// compact reads compacted indexes: of 4 bytes up to a boundary of 32, then of 2 as
// many as fill packs, then of 4 again.
func (g *gathering) compact(ctx context.Context, count int64) (end int64, err error) {
	at := g.header.start
	long := (shortPackSize - at%shortPackSize) % shortPackSize / 4
	short := int64(0)
	if g.header.advise&adviseCompact2B != 0 && long < count {
		short = (count - long) / shortPack * shortPack
	}
	for left := count; left > 0; {
		entries, size := int64(longPack), int64(longPackSize)
		if done := count - left; done >= long && done < long+short {
			entries, size = shortPack, shortPackSize
		}
		pack, err := g.image.pages.read(ctx, at, size)
		if err != nil {
			return 0, err
		}
		if err := g.pack(pack, int(entries), int(min(entries, left))); err != nil {
			return 0, err
		}
		at, left = at+size, left-min(entries, left)
	}
	return at, nil
}

// pack takes the first n of the indexes of a pack.
func (g *gathering) pack(pack []byte, entries, n int) error {
	base := uint64(binary.LittleEndian.Uint32(pack[len(pack)-packBlockSize:]))
	width := (len(pack) - packBlockSize) * 8 / entries
	const lowBits = 12 // logical clusters are of 4 KiB at most
	big := g.header.big()
	blocks, begun := uint64(0), false // of clusters before, in this pack
	for e := range n {
		bits := e * width
		v := binary.LittleEndian.Uint32(pack[bits/8:]) >> (bits & 7)
		l := logical{kind: uint8(v >> lowBits & 3), low: v & (1<<lowBits - 1)}
		switch {
		case l.kind != typeInner:
			block := base + blocks
			if !big {
				block++
			}
			if block > math.MaxUint32 {
				return corrupt("a cluster at block %d", block)
			}
			l.block = uint32(block)
			blocks++
			begun = true
		case l.low&countsBlocks != 0:
			blocks += uint64(l.low &^ countsBlocks)
			if begun {
				blocks--
			}
			begun = false
		default:
			begun = false
		}
		if err := g.add(l); err != nil {
			return err
		}
	}
	return nil
}

package disk

import (
	"context"
	"encoding/binary"
	"io"
	"iter"
	"math/bits"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/referee-cri/referee/lazyblock"
)

// dynamicVHD is a disk in blocks, of which only those stand in the file that were
// written. In front of each is a bitmap of its sectors: those without a bit were
// never written and read as zeros. It is safe for concurrent use.
type dynamicVHD struct {
	file   lazyblock.RangeReader
	size   int64
	block  int64    // bytes of a block
	bitmap int64    // bytes of its bitmap, whole sectors
	table  []uint32 // for each block the sector at which its bitmap begins
	whole  []atomic.Uint32
}

// parallelBlocks is how many blocks one read has under way.
const parallelBlocks = 4

func openDynamic(ctx context.Context, r lazyblock.RangeReader, size int64, headerAt uint64) (*dynamicVHD, error) {
	if headerAt > uint64(r.Size()) {
		return nil, corrupt("header at %d of %d bytes", headerAt, r.Size())
	}
	header, err := structure(ctx, r, int64(headerAt), headerSize, headerCookie, headerChecksum, headerVersion)
	if err != nil {
		return nil, err
	}
	entries := int64(binary.BigEndian.Uint32(header[headerEntries:]))
	v := &dynamicVHD{file: r, size: size, block: int64(binary.BigEndian.Uint32(header[headerBlockSize:]))}
	if v.block < minVHDBlock || v.block > maxVHDBlock || bits.OnesCount64(uint64(v.block)) != 1 {
		return nil, corrupt("blocks of %d bytes, want a power of two from %d to %d", v.block, minVHDBlock, maxVHDBlock)
	}
	v.bitmap = (v.block/sector/8 + sector - 1) / sector * sector
	if need := (size-1)/v.block + 1; entries < need || entries > maxEntries {
		return nil, corrupt("table of %d blocks, want %d to %d", entries, need, maxEntries)
	}
	tableAt := binary.BigEndian.Uint64(header[headerTableAt:])
	if tableAt > uint64(r.Size()) {
		return nil, corrupt("block table at %d of %d bytes", tableAt, r.Size())
	}
	if err := v.readTable(ctx, int64(tableAt)); err != nil {
		return nil, err
	}
	return v, nil
}

// readTable reads where the blocks that the disk has are.
func (v *dynamicVHD) readTable(ctx context.Context, at int64) error {
	raw := make([]byte, 4*((v.size-1)/v.block+1))
	if err := lazyblock.ReadFull(ctx, v.file, raw, at); err != nil {
		return err
	}
	v.table = make([]uint32, len(raw)/4)
	v.whole = make([]atomic.Uint32, (len(v.table)+31)/32)
	for i := range v.table {
		v.table[i] = binary.BigEndian.Uint32(raw[4*i:])
		if v.table[i] == unallocated {
			continue
		}
		// The last block may be cut where the disk ends.
		need := v.bitmap + min(v.block, v.size-int64(i)*v.block)
		if start := int64(v.table[i]) * sector; start > v.file.Size()-need {
			return corrupt("block %d at %d of %d bytes", i, start, v.file.Size())
		}
	}
	return nil
}

func (v *dynamicVHD) Size() int64 { return v.size }

// Data yields the blocks that are in the file, joined where they are neighbours.
func (v *dynamicVHD) Data() iter.Seq2[int64, int64] {
	return func(yield func(off, n int64) bool) {
		for i := 0; i < len(v.table); i++ {
			first := i
			for i < len(v.table) && v.table[i] != unallocated {
				i++
			}
			off, end := int64(first)*v.block, min(int64(i)*v.block, v.size)
			if off < end && !yield(off, end-off) {
				return
			}
		}
	}
}

// ReadRange implements lazyblock.RangeReader.
func (v *dynamicVHD) ReadRange(ctx context.Context, p []byte, off int64) (int, error) {
	if off < 0 || off >= v.size {
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), v.size-off))
	group, groupCtx := errgroup.WithContext(ctx) // waited for below
	group.SetLimit(parallelBlocks)
	for done := 0; done < n; {
		at := off + int64(done)
		piece := p[done:min(int64(n), int64(done)+v.block-at%v.block)]
		done += len(piece)
		switch {
		case v.table[at/v.block] == unallocated:
			clear(piece)
		case len(piece) == n: // as nearly all are: no goroutine for it
			if err := v.readBlock(ctx, piece, at); err != nil {
				return 0, err
			}
		default:
			group.Go(func() error { return v.readBlock(groupCtx, piece, at) })
		}
	}
	if err := group.Wait(); err != nil {
		return 0, err
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// readBlock fills p, which lies within one block that is in the file.
func (v *dynamicVHD) readBlock(ctx context.Context, p []byte, off int64) error {
	number, within := off/v.block, off%v.block
	start := int64(v.table[number]) * sector
	if err := lazyblock.ReadFull(ctx, v.file, p, start+v.bitmap+within); err != nil {
		return err
	}
	if v.isWhole(number) {
		return nil
	}
	bitmap := make([]byte, v.block/sector/8)
	if err := lazyblock.ReadFull(ctx, v.file, bitmap, start); err != nil {
		return err
	}
	v.noteWhole(number, bitmap)
	for len(p) > 0 {
		n := min(int64(len(p)), sector-within%sector)
		if s := within / sector; bitmap[s/8]>>(7-s%8)&1 == 0 { // the highest bit is the first sector
			clear(p[:n])
		}
		p, within = p[n:], within+n
	}
	return nil
}

// isWhole tells whether every sector of a block is known to be there.
func (v *dynamicVHD) isWhole(number int64) bool {
	return v.whole[number/32].Load()>>(number%32)&1 != 0
}

func (v *dynamicVHD) noteWhole(number int64, bitmap []byte) {
	for _, b := range bitmap {
		if b != 0xFF {
			return
		}
	}
	v.whole[number/32].Or(1 << (number % 32))
}

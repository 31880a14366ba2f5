package ondisk

import (
	"context"
	"encoding/binary"
	"fmt"

	"github.com/referee-cri/referee/internal/reason"
)

// Cluster is a range of a compressed file's bytes with what it is stored in: an
// LZ4 block of Stored bytes at Off of the image, of whose output it is the start;
// or the bytes as they are, where Stored is 0.
type Cluster struct {
	Extent

	Stored int64
}

// What the header of a compressed file says (struct z_erofs_map_header): h_advise.
const (
	adviseCompact2B   = 0x01 // of compacted indexes, most take 2 bytes
	adviseBigClusters = 0x02 // of the first algorithm
	adviseBigSecond   = 0x04
	adviseInlineTail  = 0x08 // the last cluster follows the indexes
	adviseInterlaced  = 0x10 // bytes that are not compressed stand rotated
	adviseFragment    = 0x20 // the file's end is in the file of fragments
	adviseKnown       = 0x3F

	clusterHeaderSize = 8
	fullIndexPadding  = 8    // between the header and indexes of 8 bytes
	wholeFragment     = 0x80 // in h_clusterbits: all of the file is a fragment
	moreBits          = 0x07 // in h_clusterbits: log2 of the cluster size less that of the block size
)

// Bounds of one cluster, as Linux has them (Z_EROFS_PCLUSTER_MAX_SIZE and
// Z_EROFS_PCLUSTER_MAX_DSIZE).
const (
	maxStored   = 1 << 20
	maxExpanded = 12 << 20
)

// Clusters tells how the bytes of a compressed file are stored, in order and
// without gaps. Files with another algorithm than LZ4 and files whose end is a
// fragment are refused with reason.NotAttachable.
func (i *Image) Clusters(ctx context.Context, f *File) ([]Cluster, error) {
	clusters, err := i.clusters(ctx, f)
	if err != nil {
		return nil, fmt.Errorf("locate compressed data of inode %d: %w", f.NID, err)
	}
	return clusters, nil
}

// ZeroPadded tells whether LZ4 blocks stand at the end of the bytes they are stored
// in, with zeros before them; else at the start, with anything behind them.
func (s *Super) ZeroPadded() bool { return s.Incompat&incompatZeroPadding != 0 }

func (i *Image) clusters(ctx context.Context, f *File) ([]Cluster, error) {
	if !f.Compressed() {
		return nil, corrupt("it is not compressed")
	}
	if f.size == 0 {
		return nil, nil
	}
	h, err := i.clusterHeader(ctx, f)
	if err != nil {
		return nil, err
	}
	heads, end, err := i.heads(ctx, f, h)
	if err != nil {
		return nil, err
	}
	if h.advise&adviseInlineTail != 0 {
		tail := &heads[len(heads)-1]
		tail.off, tail.stored = end, h.inline
		if h.inline == 0 || end&(i.BlockSize()-1)+h.inline > i.BlockSize() {
			return nil, corrupt("%d bytes behind the indexes, at %d", h.inline, end)
		}
	}
	var clusters []Cluster
	for n, at := range heads {
		next := f.size
		if n+1 < len(heads) {
			next = heads[n+1].at
		}
		if clusters, err = i.appendCluster(clusters, h, at, next-at.at); err != nil {
			return nil, err
		}
	}
	return clusters, nil
}

// appendCluster appends the cluster that begins at a head.
func (i *Image) appendCluster(clusters []Cluster, h clusterHeader, at head, length int64) ([]Cluster, error) {
	size := i.pages.image.Size()
	switch {
	case length > maxExpanded || at.stored > maxStored:
		return nil, corrupt("cluster of %d bytes stored in %d, more than %d or %d", length, at.stored, maxExpanded, maxStored)
	case at.stored > size || at.off > size-at.stored:
		return nil, corrupt("cluster of %d bytes at %d of an image of %d", at.stored, at.off, size)
	case at.plain && length > at.stored:
		return nil, corrupt("%d bytes stored as they are in %d", length, at.stored)
	case !at.plain:
		return append(clusters, Cluster{Extent{At: at.at, Length: length, Off: at.off}, at.stored}), nil
	case h.advise&adviseInterlaced == 0:
		return append(clusters, Cluster{Extent: Extent{At: at.at, Length: length, Off: at.off}}), nil
	}
	// Rotated so that bytes keep their place within a block: what comes before the
	// file's next block boundary stands last.
	first := min(length, i.BlockSize()-at.at&(i.BlockSize()-1))
	last := i.BlockSize() - at.at&(i.BlockSize()-1)
	if last > at.stored {
		return nil, corrupt("%d bytes stored rotated in %d", length, at.stored)
	}
	clusters = append(clusters, Cluster{Extent: Extent{At: at.at, Length: first, Off: at.off + at.stored - last}})
	if length > first {
		clusters = append(clusters, Cluster{Extent: Extent{At: at.at + first, Length: length - first, Off: at.off}})
	}
	return clusters, nil
}

// clusterHeader is what holds for all of a file.
type clusterHeader struct {
	advise uint16
	bits   uint8 // log2 of the bytes that one index stands for
	second bool  // the second algorithm can be used as well
	inline int64
	start  int64 // of the indexes in the image
}

// big tells whether stored clusters may have several blocks.
func (h *clusterHeader) big() bool { return h.advise&(adviseBigClusters|adviseBigSecond) != 0 }

func (i *Image) clusterHeader(ctx context.Context, f *File) (clusterHeader, error) {
	at := (f.behind + 7) &^ 7
	h := clusterHeader{bits: i.BlockBits, second: true, start: at + clusterHeaderSize}
	if f.layout == layoutCompressed {
		h.start += fullIndexPadding
		if i.Incompat&(incompatBigCluster|incompatTailPacking|incompatFragments) == 0 {
			return h, nil // as Linux does: such old images have no header
		}
	}
	b, err := i.pages.read(ctx, at, clusterHeaderSize)
	if err != nil {
		return h, err
	}
	h.advise = binary.LittleEndian.Uint16(b[4:])
	algorithms, bits := b[6], b[7]
	if bits&wholeFragment != 0 || h.advise&adviseFragment != 0 {
		return h, reason.Errorf(reason.NotAttachable, "its end lies in a file of fragments, which is not read here")
	}
	if h.advise&^adviseKnown != 0 {
		return h, reason.Errorf(reason.NotAttachable, "its compression has features that are not read here: %#x", h.advise)
	}
	if algorithm := algorithms & 15; algorithm != 0 {
		return h, reason.Errorf(reason.NotAttachable, "it is compressed with %s, only LZ4 is read here", algorithmName(algorithm))
	}
	h.second = algorithms>>4 == 0
	h.bits += bits & moreBits
	h.inline = int64(binary.LittleEndian.Uint16(b[2:]))
	if f.layout == layoutCompact && h.bits > 12 {
		return h, reason.Errorf(reason.NotAttachable, "its compacted indexes stand for %d bytes each, which is not read here", 1<<h.bits)
	}
	return h, nil
}

// algorithmName names an algorithm by its number (enum in erofs_fs.h).
func algorithmName(algorithm byte) string {
	switch algorithm {
	case 1:
		return "LZMA"
	case 2:
		return "DEFLATE"
	case 3:
		return "zstd"
	default:
		return fmt.Sprintf("algorithm %d", algorithm)
	}
}

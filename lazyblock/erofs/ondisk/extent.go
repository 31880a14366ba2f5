package ondisk

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"

	"github.com/referee-cri/referee/internal/reason"
)

// Extent is a range of a file's bytes that is stored. What no extent has is zeros.
type Extent struct {
	At, Length int64 // of the file
	Device     int   // 0: the image itself; n: the nth of Super.Devices
	Off        int64 // on the device
}

// A chunk format: bits 0 to 4 are log2 of the chunk size less that of the block
// size.
const (
	chunkBitsMask = 0x1F
	chunkIndexes  = 0x20 // indexes of 8 bytes, not block numbers of 4
	chunkKnown    = chunkBitsMask | chunkIndexes

	hole = 0xFFFFFFFF
)

// maxExtents bounds what is kept of one file: 4 TiB in chunks of a MiB.
const maxExtents = 4 << 20

// Extents tells where the bytes of a file, directory or link are, in order, joined
// where they are neighbours. A compressed one is refused with
// reason.NotAttachable.
func (i *Image) Extents(ctx context.Context, f *File) ([]Extent, error) {
	extents, err := i.extents(ctx, f)
	if err != nil {
		return nil, fmt.Errorf("locate data of inode %d: %w", f.NID, err)
	}
	return extents, nil
}

func (i *Image) extents(ctx context.Context, f *File) ([]Extent, error) {
	if f.Compressed() {
		return nil, reason.Errorf(reason.NotAttachable, "the file is compressed within the image")
	}
	if f.size == 0 {
		return nil, nil
	}
	switch f.layout {
	case layoutPlain:
		return i.within([]Extent{{0, f.size, 0, int64(f.union) << i.BlockBits}})
	case layoutInline:
		return i.inline(f)
	default:
		return i.chunks(ctx, f)
	}
}

// inline splits a file whose last block, always a partial one, follows its inode.
func (i *Image) inline(f *File) ([]Extent, error) {
	tail := f.size & (i.BlockSize() - 1)
	if tail == 0 {
		tail = i.BlockSize()
	}
	if f.behind&(i.BlockSize()-1)+tail > i.BlockSize() {
		return nil, corrupt("%d bytes behind the inode cross a block", tail)
	}
	extents := []Extent{{f.size - tail, tail, 0, f.behind}}
	if whole := f.size - tail; whole > 0 {
		extents = []Extent{{0, whole, 0, int64(f.union) << i.BlockBits}, extents[0]}
	}
	return i.within(extents)
}

// chunks reads the array of chunks behind the inode.
func (i *Image) chunks(ctx context.Context, f *File) ([]Extent, error) {
	format := f.union & 0xFFFF
	bits := i.BlockBits + uint8(format&chunkBitsMask)
	if format&^chunkKnown != 0 || bits > 40 {
		return nil, reason.Errorf(reason.NotAttachable, "its chunk format %#x is not read here", format)
	}
	unit := int64(4)
	if format&chunkIndexes != 0 {
		unit = 8
	}
	count := (f.size-1)>>bits + 1
	if count > maxExtents {
		return nil, corrupt("%d chunks, more than %d", count, maxExtents)
	}
	array, err := i.pages.read(ctx, (f.behind+unit-1)/unit*unit, count*unit)
	if err != nil {
		return nil, err
	}
	mask := i.deviceMask()
	var extents []Extent
	for n := range count {
		index := array[n*unit:]
		device, block := 0, binary.LittleEndian.Uint32(index)
		if unit == 8 {
			device, block = int(binary.LittleEndian.Uint16(index[2:]))&mask, binary.LittleEndian.Uint32(index[4:])
		}
		if block == hole {
			continue
		}
		at := n << bits
		extents = join(extents, Extent{at, min(f.size-at, 1<<bits), device, int64(block) << i.BlockBits})
	}
	return i.within(extents)
}

// deviceMask keeps the bits of a chunk index that are a device's number, as the
// kernel does: RAFS uses the others.
func (i *Image) deviceMask() int {
	mask := 1
	for mask < len(i.Devices)+1 {
		mask <<= 1
	}
	return mask - 1
}

func join(extents []Extent, e Extent) []Extent {
	if n := len(extents); n > 0 {
		last := &extents[n-1]
		if last.Device == e.Device && last.At+last.Length == e.At && last.Off+last.Length == e.Off {
			last.Length += e.Length
			return extents
		}
	}
	return append(extents, e)
}

// within refuses extents beyond the end of what they lie on, as far as that is known.
func (i *Image) within(extents []Extent) ([]Extent, error) {
	for _, e := range extents {
		size := i.pages.image.Size()
		if e.Device > 0 {
			if e.Device > len(i.Devices) {
				return nil, corrupt("data on extra device %d of %d", e.Device, len(i.Devices))
			}
			if size = int64(i.Devices[e.Device-1].Blocks) << i.BlockBits; size == 0 {
				size = math.MaxInt64 // mkfs.erofs 1.5 does not say
			}
		}
		if e.Off < 0 || e.Length > size || e.Off > size-e.Length {
			return nil, corrupt("%d bytes at %d of device %d, which has %d", e.Length, e.Off, e.Device, size)
		}
	}
	return extents, nil
}

// content reads what a directory or link holds; the caller has bounded its size.
func (i *Image) content(ctx context.Context, f *File) ([]byte, error) {
	extents, err := i.extents(ctx, f)
	if err != nil {
		return nil, err
	}
	content := make([]byte, 0, f.size)
	for _, e := range extents {
		if e.Device != 0 || e.At != int64(len(content)) {
			return nil, corrupt("a directory or link that does not lie in the image's metadata")
		}
		b, err := i.pages.read(ctx, e.Off, e.Length)
		if err != nil {
			return nil, err
		}
		content = append(content, b...)
	}
	if int64(len(content)) != f.size {
		return nil, corrupt("a directory or link with a hole")
	}
	return content, nil
}

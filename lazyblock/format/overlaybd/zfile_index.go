package overlaybd

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
)

// markEvery is how many blocks share one absolute offset in a blockIndex.
const markEvery = 64

// blockIndex knows where each stored block of a ZFile lies. It takes two
// bytes a block, four where a block is stored in 64 KiB or more, and eight
// for every 64 blocks.
type blockIndex struct {
	start int64 // of the next block to add
	short []uint16
	long  []uint32 // used instead of short once a length needs it
	marks []int64  // start of block markEvery*i
}

func (x *blockIndex) blocks() int { return max(len(x.short), len(x.long)) }

// add appends the index entries in raw, four bytes each; a stored length must
// lie in [least, most].
func (x *blockIndex) add(raw []byte, least, most uint32) error {
	for ; len(raw) >= 4; raw = raw[4:] {
		n := binary.LittleEndian.Uint32(raw)
		if n < least || n > most {
			return fmt.Errorf("block %d is stored in %d bytes, not %d to %d", x.blocks(), n, least, most)
		}
		x.addOne(n)
	}
	return nil
}

func (x *blockIndex) addOne(n uint32) {
	if x.blocks()%markEvery == 0 {
		x.marks = append(x.marks, x.start)
	}
	x.start += int64(n)
	if x.long == nil && n > math.MaxUint16 {
		x.long = make([]uint32, len(x.short), cap(x.short))
		for i, s := range x.short {
			x.long[i] = uint32(s)
		}
		x.short = nil
	}
	if x.long != nil {
		x.long = append(x.long, n)
		return
	}
	x.short = append(x.short, uint16(n))
}

// clip gives back memory that growing took too much.
func (x *blockIndex) clip() {
	x.short, x.long, x.marks = slices.Clip(x.short), slices.Clip(x.long), slices.Clip(x.marks)
}

// stored is the length of block i in the file, its CRC included.
func (x *blockIndex) stored(i int) int64 {
	if x.long != nil {
		return int64(x.long[i])
	}
	return int64(x.short[i])
}

// offset is where block i begins.
func (x *blockIndex) offset(i int) int64 {
	off := x.marks[i/markEvery]
	for j := i / markEvery * markEvery; j < i; j++ {
		off += x.stored(j)
	}
	return off
}

// span is the stored bytes of the blocks first to last.
func (x *blockIndex) span(first, last int) span {
	off := x.offset(first)
	if last-first < markEvery {
		n := int64(0)
		for i := first; i <= last; i++ {
			n += x.stored(i)
		}
		return span{off, n}
	}
	return span{off, x.offset(last) + x.stored(last) - off}
}

package lazyblock

import (
	"encoding/binary"
	"math"
	"math/bits"
)

// Fields of superblocks, from the start of the device, that tell how long a file
// system is.
const (
	erofsBlockBits = erofsMagicOffset + 12
	erofsBlocks    = erofsMagicOffset + 36

	ext4Super      = 1024
	ext4BlocksLow  = ext4Super + 0x4
	ext4BlockBits  = ext4Super + 0x18 // log2 of the block size less 10
	ext4Incompat   = ext4Super + 0x60
	ext4BlocksHigh = ext4Super + 0x150 // where blocks have 64-bit numbers
	ext4Is64Bit    = 0x80

	xfsBlockSize = 4
	xfsBlocks    = 8

	squashfsBytes = 40
)

// fsSize is the length in bytes that the superblock in head claims, MaxInt64 where
// that cannot be expressed.
func fsSize(fsType string, head []byte) int64 {
	le, be := binary.LittleEndian, binary.BigEndian
	switch fsType {
	case "erofs":
		return shifted(uint64(le.Uint32(head[erofsBlocks:])), uint(head[erofsBlockBits]))
	case "ext4":
		blocks := uint64(le.Uint32(head[ext4BlocksLow:]))
		if le.Uint32(head[ext4Incompat:])&ext4Is64Bit != 0 {
			blocks |= uint64(le.Uint32(head[ext4BlocksHigh:])) << 32
		}
		return shifted(blocks, uint(min(le.Uint32(head[ext4BlockBits:]), 64))+10)
	case "xfs":
		high, low := bits.Mul64(be.Uint64(head[xfsBlocks:]), uint64(be.Uint32(head[xfsBlockSize:])))
		if high > 0 {
			return math.MaxInt64
		}
		return int64(min(low, math.MaxInt64))
	case "squashfs":
		return int64(min(le.Uint64(head[squashfsBytes:]), math.MaxInt64))
	default:
		return 0
	}
}

func shifted(blocks uint64, by uint) int64 {
	if by > 62 || blocks > math.MaxInt64>>by {
		return math.MaxInt64
	}
	return int64(blocks << by)
}

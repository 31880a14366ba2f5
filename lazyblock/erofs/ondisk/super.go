package ondisk

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"strings"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/lazyblock"
)

// Offsets and sizes in bytes (erofs_fs.h).
const (
	SuperOffset    = 1024 // of the superblock, whatever the block size
	SuperSize      = 128
	DeviceSlotSize = 128
	slotSize       = 32 // an inode number counts these from the metadata's first block

	superMagic = 0xE0F5E1E2
)

// Feature bits. Two pairs share a bit each: what they say is told apart inode by
// inode.
const (
	compatChecksum = 0x1

	incompatZeroPadding = 0x1  // LZ4 data stands at the end of its blocks
	incompatBigCluster  = 0x2  // compression configurations
	incompatChunked     = 0x4  // chunk-based files
	incompatDevices     = 0x8  // a table of extra devices, or a second algorithm
	incompatTailPacking = 0x10 // the end of compressed data follows its inode
	incompatFragments   = 0x20 // ends of compressed files lie in a file of their own

	// knownFeatures are the incompatible features of images that can be walked.
	knownFeatures = incompatZeroPadding | incompatBigCluster | incompatChunked | incompatDevices |
		incompatTailPacking | incompatFragments
)

// maxDevices bounds the table of extra devices: RAFS has 254 at most, a merged
// image one for each of 127 layers.
const maxDevices = 1024

// Super is what the superblock says.
type Super struct {
	BlockBits  uint8 // log2 of the block size: 9 to 12
	Compat     uint32
	Incompat   uint32
	RootNID    uint64
	Inodes     uint64
	BuildTime  int64 // seconds since 1970, of inodes without a time of their own
	BuildNsec  uint32
	Blocks     uint64
	MetaBlock  uint64
	XattrBlock uint64

	DeviceSlot int // where the table of extra devices begins, in units of DeviceSlotSize
	Devices    []Device
}

// Device is a slot of the table of extra devices.
type Device struct {
	Tag    string
	Blocks uint64 // 0: not said
	Mapped uint64 // where it lies in the flat address space of a single device, in blocks
}

// BlockSize is in bytes.
func (s *Super) BlockSize() int64 { return 1 << s.BlockBits }

// ReadSuper reads superblock and device table of the image in r. Features are
// not judged: a kernel may know more than this package.
func ReadSuper(ctx context.Context, r lazyblock.RangeReader) (*Super, error) {
	b, err := readAt(ctx, r, SuperOffset, SuperSize)
	if err != nil {
		return nil, fmt.Errorf("read superblock: %w", err)
	}
	le := binary.LittleEndian
	if magic := le.Uint32(b); magic != superMagic {
		return nil, corrupt("superblock begins %#08x, want %#08x", magic, uint32(superMagic))
	}
	s := &Super{
		BlockBits: b[12], Compat: le.Uint32(b[8:]), Incompat: le.Uint32(b[80:]),
		RootNID: uint64(le.Uint16(b[14:])), Inodes: le.Uint64(b[16:]),
		BuildTime: int64(le.Uint64(b[24:])), BuildNsec: le.Uint32(b[32:]),
		Blocks: uint64(le.Uint32(b[36:])), MetaBlock: uint64(le.Uint32(b[40:])), XattrBlock: uint64(le.Uint32(b[44:])),
		DeviceSlot: int(le.Uint16(b[88:])),
	}
	if s.BlockBits < 9 || s.BlockBits > 12 {
		return nil, corrupt("blocks of 2^%d bytes, want 2^9 to 2^12", s.BlockBits)
	}
	if s.BuildNsec >= 1e9 {
		return nil, corrupt("build time with %d nanoseconds", s.BuildNsec)
	}
	if s.Compat&compatChecksum != 0 {
		if err := s.checksum(ctx, r, le.Uint32(b[4:])); err != nil {
			return nil, err
		}
	}
	if err := s.readDevices(ctx, r, int(le.Uint16(b[86:]))); err != nil {
		return nil, err
	}
	return s, nil
}

// checksum compares the CRC-32C of the superblock's block. The kernel's crc32c()
// does not invert at the end; hash/crc32 does.
func (s *Super) checksum(ctx context.Context, r lazyblock.RangeReader, want uint32) error {
	n := s.BlockSize()
	if n > SuperOffset {
		n -= SuperOffset
	}
	b, err := readAt(ctx, r, SuperOffset, n)
	if err != nil {
		return fmt.Errorf("read superblock: %w", err)
	}
	clear(b[4:8])
	if got := ^crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)); got != want {
		return corrupt("superblock has the CRC %#08x, says %#08x", got, want)
	}
	return nil
}

func (s *Super) readDevices(ctx context.Context, r lazyblock.RangeReader, n int) error {
	if s.Incompat&incompatDevices == 0 || n == 0 {
		return nil
	}
	if n > maxDevices {
		return corrupt("%d extra devices, more than %d", n, maxDevices)
	}
	b, err := readAt(ctx, r, int64(s.DeviceSlot)*DeviceSlotSize, int64(n)*DeviceSlotSize)
	if err != nil {
		return fmt.Errorf("read table of %d extra devices: %w", n, err)
	}
	for slot := range n {
		d := b[slot*DeviceSlotSize:]
		s.Devices = append(s.Devices, Device{
			Tag:    strings.TrimRight(string(d[:64]), "\x00"),
			Blocks: uint64(binary.LittleEndian.Uint32(d[64:])),
			Mapped: uint64(binary.LittleEndian.Uint32(d[68:])),
		})
	}
	return nil
}

// readAt reads exactly n bytes; n must be bounded by the caller.
func readAt(ctx context.Context, r lazyblock.RangeReader, off, n int64) ([]byte, error) {
	if off < 0 || n < 0 || off > r.Size()-n {
		return nil, corrupt("%d bytes at %d of an image of %d", n, off, r.Size())
	}
	b := make([]byte, n)
	return b, lazyblock.ReadFull(ctx, r, b, off)
}

func corrupt(format string, args ...any) error {
	return reason.Errorf(reason.FormatCorrupt, format, args...)
}

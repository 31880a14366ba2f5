package disk

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/lazyblock"
)

// Structures of a VHD, all big-endian (Virtual Hard Disk Image Format
// Specification 1.0, Microsoft, 2006). Offsets are within the structure.
const (
	sector = 512

	footerSize     = 512
	footerCookie   = "conectix"
	footerVersion  = 12 // u32, 1.0
	footerHeaderAt = 16 // u64: where the dynamic header is
	footerDiskSize = 48 // u64: "current size"
	footerType     = 60 // u32
	footerChecksum = 64 // u32

	headerSize      = 1024
	headerCookie    = "cxsparse"
	headerTableAt   = 16 // u64: where the block allocation table is
	headerVersion   = 24 // u32, 1.0
	headerEntries   = 28 // u32
	headerBlockSize = 32 // u32
	headerChecksum  = 36 // u32

	version1 = 0x00010000

	typeFixed        = 2
	typeDynamic      = 3
	typeDifferencing = 4

	unallocated = 0xFFFFFFFF
)

// Bounds of what a VHD may claim. The format ends at 2040 GiB; blocks are 2 MiB
// in practice, 512 KiB in old images.
const (
	maxVHD      = 2040 << 30
	minVHDBlock = 512 << 10
	maxVHDBlock = 64 << 20
	maxEntries  = maxVHD / minVHDBlock // 16 MiB of table
)

// openVHD returns the disk that a fixed or dynamic VHD holds.
func openVHD(ctx context.Context, r lazyblock.RangeReader) (lazyblock.RangeReader, error) {
	if r.Size() < footerSize {
		return nil, corrupt("VHD of %d bytes, less than its footer", r.Size())
	}
	footer, err := structure(ctx, r, r.Size()-footerSize, footerSize, footerCookie, footerChecksum, footerVersion)
	if err != nil {
		return nil, fmt.Errorf("VHD footer: %w", err)
	}
	size := binary.BigEndian.Uint64(footer[footerDiskSize:])
	if size == 0 || size%sector != 0 || size > maxVHD {
		return nil, corrupt("VHD of a disk of %d bytes, want sectors of %d up to %d bytes", size, sector, int64(maxVHD))
	}
	switch kind := binary.BigEndian.Uint32(footer[footerType:]); kind {
	case typeFixed:
		if int64(size) > r.Size()-footerSize {
			return nil, corrupt("fixed VHD of a disk of %d bytes has %d", size, r.Size()-footerSize)
		}
		return &fixedVHD{RangeReader: r, size: int64(size)}, nil
	case typeDynamic:
		v, err := openDynamic(ctx, r, int64(size), binary.BigEndian.Uint64(footer[footerHeaderAt:]))
		if err != nil {
			return nil, fmt.Errorf("dynamic VHD: %w", err)
		}
		return v, nil
	case typeDifferencing:
		return nil, reason.Errorf(reason.NotAttachable, "a differencing VHD needs its parent, which is not in the artifact")
	default:
		return nil, corrupt("VHD of type %d, want fixed (%d) or dynamic (%d)", kind, typeFixed, typeDynamic)
	}
}

// structure reads a footer or header and checks cookie, checksum and version.
func structure(ctx context.Context, r lazyblock.RangeReader, at, size int64, cookie string, checksumAt, versionAt int) ([]byte, error) {
	b := make([]byte, size)
	if err := lazyblock.ReadFull(ctx, r, b, at); err != nil {
		return nil, err
	}
	if got := string(b[:len(cookie)]); got != cookie {
		return nil, corrupt("begins %q, want %q", got, cookie)
	}
	want := binary.BigEndian.Uint32(b[checksumAt:])
	if got := checksum(b, checksumAt); got != want {
		return nil, corrupt("has the checksum %#08x, says %#08x", got, want)
	}
	if v := binary.BigEndian.Uint32(b[versionAt:]); v != version1 {
		return nil, corrupt("version %#08x, want %#08x", v, version1)
	}
	return b, nil
}

// checksum is the ones' complement of the sum of all bytes but its own.
func checksum(b []byte, at int) uint32 {
	sum := uint32(0)
	for i, c := range b {
		if i < at || i >= at+4 {
			sum += uint32(c)
		}
	}
	return ^sum
}

// fixedVHD is the disk in front of a footer.
type fixedVHD struct {
	lazyblock.RangeReader

	size int64
}

func (v *fixedVHD) Size() int64 { return v.size }

func (v *fixedVHD) ReadRange(ctx context.Context, p []byte, off int64) (int, error) {
	if off < 0 || off >= v.size {
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), v.size-off))
	got, err := v.RangeReader.ReadRange(ctx, p[:n], off)
	if err == nil && n < len(p) {
		err = io.EOF
	}
	return got, err
}

func corrupt(format string, args ...any) error {
	return reason.Errorf(reason.FormatCorrupt, format, args...)
}

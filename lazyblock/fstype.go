package lazyblock

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/referee-cri/referee/internal/reason"
)

// The magic numbers of the file systems that a device may hold, and where
// they are (linux/magic.h, fs/ext4/ext4.h).
const (
	superblockOffset = 1024 // both EROFS and ext4 leave the first KiB alone
	erofsMagic       = 0xE0F5E1E2
	ext4Magic        = 0xEF53
	ext4MagicOffset  = 0x38 // within the superblock
)

// FSType reads one sector of r and names the file system it holds, as mount(2)
// spells it: "erofs" or "ext4". Anything else is an error that says what was
// found, with reason.FormatCorrupt.
func FSType(ctx context.Context, r RangeReader) (string, error) {
	var sb [512]byte
	n, err := r.ReadRange(ctx, sb[:], superblockOffset)
	if n < len(sb) {
		if errors.Is(err, io.EOF) {
			return "", reason.Errorf(reason.FormatCorrupt, "no file system: the device has %d bytes", r.Size())
		}
		return "", fmt.Errorf("read superblock: %w", err)
	}
	first := binary.LittleEndian.Uint32(sb[:])
	ext := binary.LittleEndian.Uint16(sb[ext4MagicOffset:])
	switch {
	case first == erofsMagic:
		return "erofs", nil
	case ext == ext4Magic:
		return "ext4", nil
	default:
		return "", reason.Errorf(reason.FormatCorrupt,
			"no known file system: superblock begins %#08x, %#04x at offset %#x", first, ext, ext4MagicOffset)
	}
}

package lazyblock

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/referee-cri/referee/internal/reason"
)

// The magic numbers of the file systems that a device may hold, and where they
// are from its start (linux/magic.h, fs/ext4/ext4.h, fs/xfs/libxfs/xfs_format.h).
const (
	erofsMagic       = 0xE0F5E1E2 // little-endian
	erofsMagicOffset = 1024
	ext4Magic        = 0xEF53
	ext4MagicOffset  = 1024 + 0x38
	xfsMagic         = "XFSB"
	squashfsMagic    = "hsqs" // little-endian images; the kernel mounts no others

	fsHead = 1536 // holds them all
)

// FSType reads the head of r and names the file system it holds, as mount(2)
// spells it: "erofs", "ext4", "xfs" or "squashfs". Anything else is an error that
// says what was found, with reason.FormatCorrupt.
func FSType(ctx context.Context, r RangeReader) (string, error) {
	fsType, _, err := readHead(ctx, r)
	return fsType, err
}

// WholeFS is FSType for a device that must hold all of the file system: one that
// ends before it is reason.FormatCorrupt. The kernel finds that late, or not at all.
func WholeFS(ctx context.Context, r RangeReader) (string, error) {
	fsType, head, err := readHead(ctx, r)
	if err != nil {
		return "", err
	}
	if want := fsSize(fsType, head); want > r.Size() {
		return "", reason.Errorf(reason.FormatCorrupt, "%s of %d bytes on a device of %d", fsType, want, r.Size())
	}
	return fsType, nil
}

func readHead(ctx context.Context, r RangeReader) (fsType string, head []byte, err error) {
	head = make([]byte, fsHead)
	if n, err := r.ReadRange(ctx, head, 0); n < len(head) {
		if errors.Is(err, io.EOF) {
			return "", nil, reason.Errorf(reason.FormatCorrupt, "no file system: the device has %d bytes", r.Size())
		}
		return "", nil, fmt.Errorf("read superblock: %w", err)
	}
	erofs := binary.LittleEndian.Uint32(head[erofsMagicOffset:])
	ext := binary.LittleEndian.Uint16(head[ext4MagicOffset:])
	first := string(head[:4])
	switch {
	case erofs == erofsMagic:
		return "erofs", head, nil
	case ext == ext4Magic:
		return "ext4", head, nil
	case first == xfsMagic:
		return "xfs", head, nil
	case first == squashfsMagic:
		return "squashfs", head, nil
	default:
		return "", nil, reason.Errorf(reason.FormatCorrupt,
			"no known file system: the device begins %q, has %#08x at %d and %#04x at %d", first, erofs, erofsMagicOffset, ext, ext4MagicOffset)
	}
}

package disk

import (
	"context"
	"encoding/binary"
	"errors"
	"io"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/lazyblock"
)

// fileSystem names the file system on the disk r. Whether the kernel knows it is
// seen when it is mounted: modules are loaded then.
func fileSystem(ctx context.Context, r lazyblock.RangeReader) (string, error) {
	fsType, err := lazyblock.WholeFS(ctx, r)
	if err != nil {
		if reason.Of(err) != reason.FormatCorrupt {
			return "", err
		}
		if table, perr := partitions(ctx, r); perr == nil && table != "" {
			return "", reason.Errorf(reason.NotAttachable, "the disk has a %s: the file system must begin with the disk", table)
		}
		return "", err
	}
	return fsType, nil
}

// Partition tables: the one of 1983 ends the first sector, a GPT header is the
// second (UEFI specification, 5.2 and 5.3).
const (
	bootSignature   = 0xAA55
	bootSignatureAt = 510
	gptSignature    = "EFI PART"
)

// partitions names the partition table that a disk begins with, "" for none.
func partitions(ctx context.Context, r lazyblock.RangeReader) (string, error) {
	var head [2 * sector]byte
	if n, err := r.ReadRange(ctx, head[:], 0); n < len(head) && !errors.Is(err, io.EOF) {
		return "", err
	}
	switch {
	case string(head[sector:][:len(gptSignature)]) == gptSignature:
		return "GUID partition table", nil
	case binary.LittleEndian.Uint16(head[bootSignatureAt:]) == bootSignature:
		return "boot sector or partition table", nil
	default:
		return "", nil
	}
}

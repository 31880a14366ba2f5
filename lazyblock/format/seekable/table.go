package seekable

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/lazyblock"
	"github.com/referee-cri/referee/lazyblock/format/span"
)

// The seek table: a skippable frame's header, an entry for each frame, a footer.
const (
	skippableMagic = 0x184D2A5E
	skippableSize  = 8 // magic and length

	footerMagic = 0x8F92EAB1
	footerSize  = 9 // frames, descriptor, magic

	hasChecksums = 1 << 7
	reservedBits = 0x7C

	entrySize = 12 // compressed, decompressed, checksum; 8 without the last
)

// maxFrames bounds the table: 128 GiB in frames of 64 KiB, 90 MiB of memory.
const maxFrames = 2 << 20

// ErrNotSeekable is wrapped by errors about blobs that end with no seek table.
var ErrNotSeekable = errors.New("no seek table at the end")

// table is what the seek table says of the frames that hold something.
type table struct {
	spans     []span.Span
	checksums []uint32
}

func readTable(ctx context.Context, blob lazyblock.RangeReader) (*table, error) {
	size := blob.Size()
	if size < skippableSize+footerSize {
		return nil, reason.Errorf(reason.NotAttachable, "blob of %d bytes: %w", size, ErrNotSeekable)
	}
	var footer [footerSize]byte
	if err := lazyblock.ReadFull(ctx, blob, footer[:], size-footerSize); err != nil {
		return nil, fmt.Errorf("seek table: %w", err)
	}
	le := binary.LittleEndian
	if le.Uint32(footer[5:]) != footerMagic {
		return nil, reason.Errorf(reason.NotAttachable, "it can only be decoded from the start: %w", ErrNotSeekable)
	}
	frames, descriptor := int64(le.Uint32(footer[:])), footer[4]
	switch {
	case descriptor&reservedBits != 0:
		return nil, corrupt("seek table descriptor %#02x has reserved bits", descriptor)
	case descriptor&hasChecksums == 0:
		return nil, reason.Errorf(reason.NotAttachable, "the seek table has no checksums")
	case frames > maxFrames:
		return nil, corrupt("%d frames, more than %d", frames, maxFrames)
	}
	content := frames*entrySize + footerSize
	start := size - content - skippableSize
	if start < 0 {
		return nil, corrupt("seek table of %d frames in %d bytes", frames, size)
	}
	raw := make([]byte, content+skippableSize-footerSize)
	if err := lazyblock.ReadFull(ctx, blob, raw, start); err != nil {
		return nil, fmt.Errorf("seek table: %w", err)
	}
	if magic, length := le.Uint32(raw), int64(le.Uint32(raw[4:])); magic != skippableMagic || length != content {
		return nil, corrupt("seek table in a frame %#08x of %d bytes, want %#08x of %d", magic, length, uint32(skippableMagic), content)
	}
	return parseEntries(raw[skippableSize:], start)
}

// parseEntries reads the table of frames that end at byte end of the blob.
func parseEntries(raw []byte, end int64) (*table, error) {
	le := binary.LittleEndian
	t := &table{spans: make([]span.Span, 0, len(raw)/entrySize), checksums: make([]uint32, 0, len(raw)/entrySize)}
	at, off := int64(0), int64(0)
	for ; len(raw) > 0; raw = raw[entrySize:] {
		stored, size := int64(le.Uint32(raw)), int64(le.Uint32(raw[4:]))
		if size > 0 {
			t.spans = append(t.spans, span.Span{At: at, Size: size, Off: off, Stored: stored})
			t.checksums = append(t.checksums, le.Uint32(raw[8:]))
		}
		at, off = at+size, off+stored
	}
	if off != end {
		return nil, corrupt("the seek table tells of %d compressed bytes, there are %d", off, end)
	}
	return t, nil
}

func corrupt(format string, args ...any) error {
	return reason.Errorf(reason.FormatCorrupt, format, args...)
}

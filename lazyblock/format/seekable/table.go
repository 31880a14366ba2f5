package seekable

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"

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

// ErrNotSeekable is wrapped by errors about blobs that end with no seek table, or
// with one without checksums.
var ErrNotSeekable = errors.New("no usable seek table at the end")

// errUneven says that frames before the last have different lengths.
var errUneven = errors.New("frames of different lengths")

// table is what the seek table says of the frames that hold something.
type table struct {
	spans   []span.Span
	entries []entry
}

// entry is what vouches for a frame, and where the blob says so.
type entry struct {
	at       int64
	checksum atomic.Uint32
}

// openTable reads the table of blob. Nothing vouches for the table itself, so what
// is odd about it is read anew before it is believed: it may be the cache below.
func openTable(ctx context.Context, blob lazyblock.RangeReader) (*table, error) {
	t, err := lazyblock.Reread(ctx, blob, readTable)
	switch {
	case errors.Is(err, errUneven):
		return lazyblock.Reread(ctx, blob, readUneven)
	case errors.Is(err, ErrNotSeekable):
		if coded, ok := errors.AsType[*reason.Error](err); ok {
			err = coded.Err // it breaks no format after all
		}
		return nil, reason.Wrap(reason.NotAttachable, err)
	}
	return t, err
}

// readTable is readUneven for frames of one length, as most writers make them.
func readTable(ctx context.Context, blob lazyblock.RangeReader) (*table, error) {
	t, err := readUneven(ctx, blob)
	if err != nil {
		return nil, err
	}
	for i := range t.spans {
		first, last := t.spans[0].Size, i+1 == len(t.spans)
		if size := t.spans[i].Size; size > first || size < first && !last {
			return nil, corrupt("frame %d of %d bytes behind one of %d: %w", i, size, first, errUneven)
		}
	}
	return t, nil
}

func readUneven(ctx context.Context, blob lazyblock.RangeReader) (*table, error) {
	size := blob.Size()
	if size < skippableSize+footerSize {
		return nil, corrupt("blob of %d bytes: %w", size, ErrNotSeekable)
	}
	var footer [footerSize]byte
	if err := lazyblock.ReadFull(ctx, blob, footer[:], size-footerSize); err != nil {
		return nil, fmt.Errorf("seek table: %w", err)
	}
	le := binary.LittleEndian
	if le.Uint32(footer[5:]) != footerMagic {
		return nil, corrupt("it can only be decoded from the start: %w", ErrNotSeekable)
	}
	frames, descriptor := int64(le.Uint32(footer[:])), footer[4]
	switch {
	case descriptor&reservedBits != 0:
		return nil, corrupt("seek table descriptor %#02x has reserved bits", descriptor)
	case descriptor&hasChecksums == 0:
		return nil, corrupt("the seek table has no checksums: %w", ErrNotSeekable)
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
	t := &table{spans: make([]span.Span, 0, len(raw)/entrySize), entries: make([]entry, len(raw)/entrySize)}
	at, off := int64(0), int64(0)
	for where := end + skippableSize; len(raw) > 0; raw, where = raw[entrySize:], where+entrySize {
		stored, size := int64(le.Uint32(raw)), int64(le.Uint32(raw[4:]))
		if size > 0 {
			e := &t.entries[len(t.spans)]
			e.at = where
			e.checksum.Store(le.Uint32(raw[8:]))
			t.spans = append(t.spans, span.Span{At: at, Size: size, Off: off, Stored: stored})
		}
		at, off = at+size, off+stored
	}
	if off != end {
		return nil, corrupt("the seek table tells of %d compressed bytes, there are %d", off, end)
	}
	return t, nil
}

// reread reads the entry of frame i anew, past the cache below.
func (t *table) reread(ctx context.Context, blob lazyblock.RangeReader, i int) error {
	e, s := &t.entries[i], &t.spans[i]
	if cache, ok := blob.(lazyblock.Invalidator); ok {
		_ = cache.Invalidate(ctx, e.at, entrySize) // what counts is that it is read anew now
	}
	var raw [entrySize]byte
	if err := lazyblock.ReadFull(ctx, blob, raw[:], e.at); err != nil {
		return fmt.Errorf("seek table: %w", err)
	}
	le := binary.LittleEndian
	if stored, size := int64(le.Uint32(raw[:])), int64(le.Uint32(raw[4:])); stored != s.Stored || size != s.Size {
		return corrupt("frame %d has %d bytes in %d, the seek table said %d in %d before", i, size, stored, s.Size, s.Stored)
	}
	e.checksum.Store(le.Uint32(raw[8:]))
	return nil
}

func corrupt(format string, args ...any) error {
	return reason.Errorf(reason.FormatCorrupt, format, args...)
}

package seekable

import (
	"context"
	"fmt"

	"github.com/cespare/xxhash/v2"
	"github.com/klauspost/compress/zstd"

	"github.com/referee-cri/referee/lazyblock"
	"github.com/referee-cri/referee/lazyblock/format/span"
)

// Open reads the seek table of blob, which stays the caller's. A blob without one,
// or with one without checksums, gives reason.NotAttachable; the former error
// wraps ErrNotSeekable. memory keeps decoded frames; nil: the reader has its own.
func Open(ctx context.Context, blob lazyblock.RangeReader, memory *span.Memory) (*span.Reader, error) {
	t, err := openTable(ctx, blob)
	if err != nil {
		return nil, fmt.Errorf("open seekable zstd: %w", err)
	}
	// What a frame yields is limited to what its entry says, whatever it claims itself.
	decoder, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderLowmem(true), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		return nil, fmt.Errorf("open seekable zstd: %w", err)
	}
	decode := func(i int, dst, src []byte) error {
		return decodeFrame(decoder, t.entries[i].checksum.Load(), dst, src)
	}
	reread := func(ctx context.Context, i int) error { return t.reread(ctx, blob, i) }
	r, err := span.New(blob, t.spans, decode, span.Options{Memory: memory, Reread: reread})
	if err != nil {
		return nil, fmt.Errorf("open seekable zstd: %w", err)
	}
	return r, nil
}

// decodeFrame fills dst and compares it with the least significant half of its
// XXH64.
func decodeFrame(decoder *zstd.Decoder, checksum uint32, dst, src []byte) error {
	out, err := decoder.DecodeAll(src, dst[:0:len(dst)])
	switch {
	case err != nil:
		return err
	case len(out) != len(dst):
		return fmt.Errorf("frame of %d bytes decodes to %d", len(dst), len(out))
	}
	if got := uint32(xxhash.Sum64(out)); got != checksum {
		return fmt.Errorf("frame has the checksum %#08x, the seek table says %#08x", got, checksum)
	}
	return nil
}

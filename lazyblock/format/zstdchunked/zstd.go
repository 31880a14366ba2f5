package zstdchunked

import (
	"bytes"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// maxWindow bounds the memory of one decoder. Writers' best level asks for 8 MiB;
// decoders need not support more (RFC 8878, section 3.1.1.1.2).
const maxWindow = 64 << 20

// decoders are streaming decoders, *zstd.Decoder, without a goroutine of their own.
var decoders sync.Pool

// withDecoder calls use with the expanded bytes of the frames in r.
func withDecoder(r io.Reader, use func(io.Reader) error) error {
	d, ok := decoders.Get().(*zstd.Decoder)
	if !ok {
		var err error
		d, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return err
		}
	}
	defer decoders.Put(d)
	if err := d.Reset(r); err != nil {
		return fmt.Errorf("zstd: %w", err)
	}
	defer func() { _ = d.Reset(nil) }() // lets go of r; nothing can fail
	return use(d)
}

// expand is stargztoc.Expand for zstd frames.
func expand(stored []byte, use func(io.Reader) error) error {
	return withDecoder(bytes.NewReader(stored), use)
}

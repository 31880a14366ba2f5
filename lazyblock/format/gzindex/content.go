package gzindex

import (
	"github.com/referee-cri/referee/lazyblock"
	"github.com/referee-cri/referee/lazyblock/format/span"
)

// ContentOptions are for Index.Content. All may be nil. The functions are called
// concurrently; a span that they refuse is handled as one that does not inflate.
type ContentOptions struct {
	Stored   func(i int, src []byte) error // judges the bytes of span i as they are in the file
	Inflated func(i int, dst []byte) error // judges them inflated
	Memory   *span.Memory
}

// Spans are where all spans lie.
func (x *Index) Spans() []span.Span {
	spans := make([]span.Span, len(x.Checkpoints))
	for i := range spans {
		spans[i].At, spans[i].Size, spans[i].Off, spans[i].Stored = x.Span(i)
	}
	return spans
}

// Content reads what the gzip file blob holds, through x. Errors are those of
// package span.
func (x *Index) Content(blob lazyblock.RangeReader, opts ContentOptions) (*span.Reader, error) {
	decode := func(i int, dst, src []byte) error {
		if opts.Stored != nil {
			if err := opts.Stored(i, src); err != nil {
				return err
			}
		}
		if err := x.Decode(i, dst, src); err != nil || opts.Inflated == nil {
			return err
		}
		return opts.Inflated(i, dst)
	}
	return span.New(blob, x.Spans(), decode, span.Options{Size: x.Uncompressed, Memory: opts.Memory})
}

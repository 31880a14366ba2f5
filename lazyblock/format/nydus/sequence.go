package nydus

import (
	"context"
	"iter"
	"sort"

	"github.com/referee-cri/referee/lazyblock/format/span"
)

// sequence is what a blob's device serves. Between two chunks are zeros up to the
// next block and, where the image uses only some chunks of a blob, others of which
// nothing is known here: these must not read as zeros.
type sequence struct {
	*span.Reader

	layer int // of the form
	spans []span.Span
	known []stretch
}

// stretch is what chunks that follow each other take, whole blocks.
type stretch struct{ start, end int64 }

func newSequence(r *span.Reader, spans []span.Span) *sequence {
	s := &sequence{Reader: r, spans: spans}
	for i := range spans {
		start, end := spans[i].At, (spans[i].At+spans[i].Size+blockSize-1)/blockSize*blockSize
		if n := len(s.known); n > 0 && s.known[n-1].end == start {
			s.known[n-1].end = end
			continue
		}
		s.known = append(s.known, stretch{start, end})
	}
	return s
}

// Data yields what is known of the blob: files point to nothing else.
func (s *sequence) Data() iter.Seq2[int64, int64] {
	return func(yield func(off, n int64) bool) {
		for _, k := range s.known {
			if !yield(k.start, min(k.end, s.Size())-k.start) {
				return
			}
		}
	}
}

// ReadRange implements lazyblock.RangeReader.
func (s *sequence) ReadRange(ctx context.Context, p []byte, off int64) (int, error) {
	if end := min(off+int64(len(p)), s.Size()); off >= 0 && off < end {
		i := sort.Search(len(s.known), func(i int) bool { return s.known[i].end > off })
		if i == len(s.known) || s.known[i].start > off || s.known[i].end < end {
			return 0, corrupt("the image lists no chunk for all of the %d bytes at %d", len(p), off)
		}
	}
	return s.Reader.ReadRange(ctx, p, off)
}

package span

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"sort"
	"sync/atomic"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/lazyblock"
)

// Span is one piece that can be decoded by itself.
type Span struct {
	At, Size    int64 // decoded: address and length
	Off, Stored int64 // in the blob
}

func (s *Span) end() int64       { return s.At + s.Size }
func (s *Span) storedEnd() int64 { return s.Off + s.Stored }

// Decode fills dst, which has exactly Size bytes, from src, the Stored bytes of
// span i, and verifies it as far as the format allows. It must neither keep nor
// change src. It is called concurrently.
type Decode func(i int, dst, src []byte) error

// Options of New. The zero value is good.
type Options struct {
	// Size is that of the decoded sequence; 0 means up to the end of the last
	// span. What no span covers reads as zeros.
	Size int64
	// Raw tells which spans are stored as they are and not verified: of these a
	// read fetches what it wants, without Decode. nil: none.
	Raw func(i int) bool
	// Reread is called where span i does not decode and there is a cache below,
	// before it is decoded once more from fresh bytes: what Decode judges it by may
	// have rotted there as well. nil: that has been checked.
	Reread func(ctx context.Context, i int) error
	// Memory keeps decoded spans; nil: one of DefaultMemory bytes for this reader.
	Memory *Memory
}

// Bounds of one span. A read has to hold a whole span, stored and decoded, to
// serve one byte of it. The formats' writers make chunks of 4 MiB by default, and
// Nydus stops at 16 MiB; but zstd:chunked has whole files as chunks.
const (
	MaxSize   = 64 << 20 // decoded
	MaxStored = 80 << 20 // bytes that do not shrink have a frame around them; a tar's headers may follow them
)

// Reader is the decoded sequence. It is safe for concurrent use.
type Reader struct {
	blob    lazyblock.RangeReader
	spans   []Span
	decode  Decode
	raw     func(int) bool
	reread  func(context.Context, int) error // may be nil
	size    int64
	memory  *Memory
	scratch *scratch
	closed  atomic.Bool
}

var (
	_ lazyblock.RangeReader = (*Reader)(nil)
	_ io.Closer             = (*Reader)(nil)
)

// New returns the sequence of spans, sorted by At and not overlapping there.
// spans is kept. blob stays its owner's. Spans that overlap, lie outside the blob
// or are larger than MaxSize and MaxStored give reason.FormatCorrupt.
func New(blob lazyblock.RangeReader, spans []Span, decode Decode, opts Options) (*Reader, error) {
	r := &Reader{blob: blob, spans: spans, decode: decode, raw: opts.Raw, reread: opts.Reread, size: opts.Size, memory: opts.Memory}
	if r.raw == nil {
		r.raw = func(int) bool { return false }
	}
	if r.memory == nil {
		r.memory = NewMemory(DefaultMemory, nil)
	}
	r.scratch = newScratch(len(spans))
	end := int64(0)
	for i := range spans {
		if err := r.check(i, end); err != nil {
			return nil, reason.Errorf(reason.FormatCorrupt, "span %d: %w", i, err)
		}
		end = spans[i].end()
	}
	switch {
	case r.size == 0:
		r.size = end
	case r.size < end:
		return nil, reason.Errorf(reason.FormatCorrupt, "spans end at %d, behind the end at %d", end, r.size)
	}
	return r, nil
}

// check refuses a span that breaks the rules; end is that of the one before.
func (r *Reader) check(i int, end int64) error {
	s := &r.spans[i]
	switch {
	case s.At < end || s.Size <= 0 || s.end() < s.At:
		return fmt.Errorf("%d bytes at %d, behind a span that ends at %d", s.Size, s.At, end)
	case s.Off < 0 || s.Stored <= 0 || s.Stored > r.blob.Size() || s.Off > r.blob.Size()-s.Stored:
		return fmt.Errorf("stored in %d bytes at %d of a blob of %d", s.Stored, s.Off, r.blob.Size())
	case r.raw(i):
		if s.Stored != s.Size {
			return fmt.Errorf("%d bytes are stored as they are in %d", s.Size, s.Stored)
		}
		return nil
	case s.Size > MaxSize || s.Stored > MaxStored:
		return fmt.Errorf("%d bytes stored in %d, want at most %d in %d", s.Size, s.Stored, MaxSize, MaxStored)
	}
	return nil
}

// Size is the number of decoded bytes.
func (r *Reader) Size() int64 { return r.size }

// Close gives back what r's spans take of memory and disk. Reads under way end by
// themselves, later ones fail.
func (r *Reader) Close() error {
	r.closed.Store(true)
	r.memory.forget(r)
	return r.scratch.close()
}

// window is how many decoded bytes one read works on at a time, but for a span
// that is larger by itself: it bounds the memory that a long read takes.
const window = 16 << 20

// ReadRange implements lazyblock.RangeReader. When it returns an error other than
// io.EOF, p holds nothing of use.
func (r *Reader) ReadRange(ctx context.Context, p []byte, off int64) (int, error) {
	switch {
	case r.closed.Load():
		return 0, fmt.Errorf("read spans: %w", fs.ErrClosed)
	case off < 0:
		return 0, fmt.Errorf("read spans: negative offset %d", off)
	case len(p) == 0:
		return 0, nil
	case off >= r.size:
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), r.size-off))
	end := off + int64(n)
	for i, at := r.find(off), off; at < end; {
		j, stop := r.window(i, end)
		if err := r.read(ctx, i, j, p[at-off:stop-off], at); err != nil {
			return 0, err
		}
		i, at = j, stop
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// window returns the spans from i on that are read together, and where the
// reading of what comes behind them goes on.
func (r *Reader) window(i int, end int64) (j int, stop int64) {
	total := int64(0)
	for j = i; j < len(r.spans) && r.spans[j].At < end; j++ {
		if total += r.spans[j].Size; total > window && j > i {
			return j, r.spans[j].At
		}
	}
	return j, end
}

// find returns the first span that ends behind off.
func (r *Reader) find(off int64) int {
	return sort.Search(len(r.spans), func(i int) bool { return r.spans[i].end() > off })
}

// part is the overlap of span i with the bytes p at address at: which bytes of p,
// and where in the span they begin.
func (r *Reader) part(i int, p []byte, at int64) (dst []byte, skip int64) {
	s := &r.spans[i]
	from, to := max(at, s.At), min(at+int64(len(p)), s.end())
	return p[from-at : to-at], from - s.At
}

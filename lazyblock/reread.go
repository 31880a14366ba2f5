package lazyblock

import (
	"context"
	"slices"
	"sync"

	"github.com/referee-cri/referee/internal/reason"
)

// Reread calls parse with blob. Where what parse reads breaks its format it may be
// the cache below that is wrong: the bytes are dropped, if there is a cache, and
// parse is called again, for as long as it fails on bytes that were not dropped
// before. What it keeps of the reader it may go on reading.
func Reread[T any](ctx context.Context, blob RangeReader, parse func(context.Context, RangeReader) (T, error)) (T, error) {
	witness := &witness{RangeReader: blob}
	result, err := parse(ctx, witness)
	for range maxRereads {
		if code := reason.Of(err); code != reason.FormatCorrupt && code != reason.DigestMismatch || !witness.forget(ctx) {
			break
		}
		result, err = parse(ctx, witness)
	}
	witness.stop()
	return result, err
}

// maxWitnessed bounds the ranges that are remembered one by one, maxRereads the
// structures of one blob that may be wrong one after the other.
const (
	maxWitnessed = 256
	maxRereads   = 8
)

// witness remembers which ranges are read through it.
type witness struct {
	RangeReader

	mu      sync.Mutex
	stopped bool
	seen    []seen // since parse was last called
	dropped []seen
}

type seen struct{ off, end int64 }

func (w *witness) ReadRange(ctx context.Context, p []byte, off int64) (int, error) {
	w.saw(seen{off, off + int64(len(p))})
	return w.RangeReader.ReadRange(ctx, p, off)
}

// Invalidate implements Invalidator for what is kept of the witness.
func (w *witness) Invalidate(ctx context.Context, off, n int64) error {
	if below, ok := w.RangeReader.(Invalidator); ok {
		return below.Invalidate(ctx, off, n)
	}
	return nil
}

func (w *witness) saw(s seen) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stopped {
		return
	}
	if n := len(w.seen); n > 0 && (w.seen[n-1].end == s.off || n == maxWitnessed) {
		last := &w.seen[n-1]
		last.off, last.end = min(last.off, s.off), max(last.end, s.end)
		return
	}
	w.seen = append(w.seen, s)
}

func (w *witness) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stopped, w.seen = true, nil
}

// forget drops what was read and tells whether there was any that had not been
// dropped before.
func (w *witness) forget(ctx context.Context) bool {
	below, ok := w.RangeReader.(Invalidator)
	if !ok {
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	again := false
	for _, s := range w.seen {
		s.off, s.end = max(s.off, 0), min(s.end, w.Size())
		known := slices.ContainsFunc(w.dropped, func(d seen) bool { return d.off <= s.off && s.end <= d.end })
		if s.off >= s.end || known {
			continue
		}
		if below.Invalidate(ctx, s.off, s.end-s.off) != nil {
			return false
		}
		w.dropped = append(w.dropped, s)
		again = true
	}
	w.seen = nil
	return again
}

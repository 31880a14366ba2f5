package overlaybd

import (
	"context"
	"fmt"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/referee-cri/referee/lazyblock"
)

// How much of a blob is fetched before anything is known about it. What turns out
// to be missing costs a round trip; what is fetched for nothing costs one as well
// where it is much, as TCP begins slowly: ten segments, and doubles.
const (
	headGuess = 12 << 10 // headers of tar and ZFile, and the block with that of the LSMT
	// The ZFile index takes 4 bytes a block: 1/3300 of a layer of Debian packages in
	// blocks of 32 KiB, 1/540 in blocks of 4 KiB. The LSMT's index lies before it.
	tailShare     = 2048
	maxTailGuess  = 4 << 20
	lsmtTailGuess = 16 << 10 // LSMT index and trailer, before the ZFile index
	maxEnsure     = 32 << 20 // longer indexes are read piece by piece
)

// guess returns the parts of a blob to fetch first, as one where they meet.
func guess(size int64) []span {
	tail := min(lsmtTailGuess+size/tailShare, maxTailGuess)
	if headGuess+tail >= size {
		return []span{{0, size}}
	}
	return []span{{0, headGuess}, {size - tail, tail}}
}

func guessedBytes(size int64) (n int64) {
	for _, s := range guess(size) {
		n += s.len
	}
	return n
}

// readAhead serves reads from parts of a blob fetched before and asks the blob
// for the rest. It lives while a layer is being opened.
type readAhead struct {
	blob    lazyblock.RangeReader
	charged int64 // bytes taken from openLimits.extra

	mu    sync.Mutex
	parts []part
	asked []span // of the blob, so far
}

type part struct {
	span
	data []byte
}

// start fetches the guessed parts of the blob side by side.
func (r *readAhead) start(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx) // waited for below
	for _, s := range guess(r.blob.Size()) {
		g.Go(func() error { return r.load(ctx, s) })
	}
	if err := g.Wait(); err != nil {
		return fmt.Errorf("read head and tail: %w", err)
	}
	return nil
}

// load makes s of the blob a part.
func (r *readAhead) load(ctx context.Context, s span) error {
	p := part{s, make([]byte, s.len)}
	r.note(s)
	if err := lazyblock.ReadFull(ctx, r.blob, p.data, p.off); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.parts = append(r.parts, p)
	return nil
}

func (r *readAhead) note(s span) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked = append(r.asked, s)
}

// forget drops all that was read from the cache below, and says whether there
// is one: whoever finds corruption may then start once more.
func (r *readAhead) forget(ctx context.Context) bool {
	cache, ok := r.blob.(lazyblock.Invalidator)
	if !ok {
		return false
	}
	for _, s := range r.asked {
		_ = cache.Invalidate(ctx, s.off, s.len) // what counts is that they are read anew now
	}
	r.parts, r.asked = nil, nil
	return true
}

// ensure fetches what is missing of s, and up to lead bytes before it, in one
// read. A range longer than maxEnsure is left alone.
func (r *readAhead) ensure(ctx context.Context, s span, lead int64) error {
	if s.len > maxEnsure || r.covers(s) {
		return nil
	}
	end := r.missingEnd(s)
	s.off = max(0, s.off-lead)
	return r.load(ctx, span{s.off, end - s.off})
}

// missingEnd is where the part that holds the end of s begins, else that end.
func (r *readAhead) missingEnd(s span) int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	end := s.end()
	for _, p := range r.parts {
		if s.off < p.off && p.off < end && s.end() <= p.end() {
			end = p.off
		}
	}
	return end
}

func (r *readAhead) covers(s span) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range r.parts {
		if p.off <= s.off && s.end() <= p.end() {
			return true
		}
	}
	return false
}

// Size implements lazyblock.RangeReader.
func (r *readAhead) Size() int64 { return r.blob.Size() }

// ReadRange implements lazyblock.RangeReader: from the parts as far as they
// follow each other, then from the blob.
func (r *readAhead) ReadRange(ctx context.Context, p []byte, off int64) (int, error) {
	n := 0
	for n < len(p) {
		m := r.copyFrom(p[n:], off+int64(n))
		if m == 0 {
			r.note(span{off + int64(n), int64(len(p) - n)})
			m, err := r.blob.ReadRange(ctx, p[n:], off+int64(n))
			return n + m, err
		}
		n += m
	}
	return n, nil
}

func (r *readAhead) copyFrom(p []byte, off int64) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, part := range r.parts {
		if part.off <= off && off < part.end() {
			return copy(p, part.data[off-part.off:])
		}
	}
	return 0
}

// Invalidate implements lazyblock.Invalidator: nothing read ahead is trusted any more.
func (r *readAhead) Invalidate(ctx context.Context, off, n int64) error {
	r.mu.Lock()
	r.parts = nil
	r.mu.Unlock()
	if cache, ok := r.blob.(lazyblock.Invalidator); ok {
		return cache.Invalidate(ctx, off, n)
	}
	return nil
}

var (
	_ lazyblock.RangeReader = (*readAhead)(nil)
	_ lazyblock.Invalidator = (*readAhead)(nil)
)

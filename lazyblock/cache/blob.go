package cache

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync/atomic"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/lazyblock"
)

var (
	_ lazyblock.RangeReader = (*Blob)(nil)
	_ lazyblock.Invalidator = (*Blob)(nil)
)

// Blob is a handle on a cached blob. It is safe for concurrent use.
type Blob struct {
	file   *file
	origin lazyblock.RangeReader // may be nil
	closed atomic.Bool
}

// Size is the size of the whole blob.
func (b *Blob) Size() int64 { return b.file.entry.size }

// Cached is how many bytes of it are on disk.
func (b *Blob) Cached() int64 { return b.file.sparse.bytes() }

// ReadRange fills p with the bytes from off; see lazyblock.RangeReader. What is
// not here is fetched, in larger pieces, and kept. The origin is given the
// deadline of ctx (see blob.Blob.ReadRange); the end of ctx ends the wait but
// not a fetch that others wait for.
func (b *Blob) ReadRange(ctx context.Context, p []byte, off int64) (int, error) {
	if b.closed.Load() {
		return 0, b.errorf(off, len(p), os.ErrClosed)
	}
	if off < 0 {
		return 0, b.errorf(off, len(p), reason.Errorf(reason.Internal, "negative offset"))
	}
	var end error
	if rest := b.Size() - off; rest < int64(len(p)) {
		p, end = p[:max(rest, 0)], io.EOF
	}
	if len(p) == 0 {
		return 0, end
	}
	b.file.guesses.touch(off)
	counts := &b.file.store.counts
	if b.file.readCached(p, off) {
		counts.hits.Add(1)
		counts.hitBytes.Add(int64(len(p)))
		return len(p), end
	}
	counts.misses.Add(1)
	lazyblock.Waits(ctx)
	defer b.file.waits.begin()()
	defer b.file.store.waits.begin()()
	n, err := b.file.readMissing(ctx, p, off)
	counts.missBytes.Add(int64(n))
	if err != nil {
		return n, b.errorf(off+int64(n), len(p)-n, err)
	}
	return n, end
}

// Prefetch fetches what is missing of [off, off+n) without returning it: those
// blocks and no more, in requests of at most Options.MaxRequest. A fetch that is
// under way already is waited for. The context's priority (lazyblock.WithPriority)
// goes to the origin with it; its end ends the wait, and the fetch unless a reader
// waits for it too.
func (b *Blob) Prefetch(ctx context.Context, off, n int64) error {
	if b.closed.Load() {
		return b.errorf(off, int(n), os.ErrClosed)
	}
	off = max(off, 0)
	n = min(n, b.Size()-off)
	if n <= 0 {
		return nil
	}
	if err := b.file.prefetch(ctx, off, n); err != nil {
		return b.errorf(off, int(n), err)
	}
	return nil
}

// Invalidate forgets the blocks of [off, off+n), because their bytes turned out
// to be wrong: they are fetched again when they are read. It returns when that
// is on disk, so that no crash brings the old ones back; an error means that
// they are forgotten for the life of this process, and nothing is kept any more.
func (b *Blob) Invalidate(_ context.Context, off, n int64) error {
	off = max(off, 0)
	n = min(n, b.Size()-off)
	if n <= 0 {
		return nil
	}
	if err := b.file.invalidate(off, n); err != nil {
		return fmt.Errorf("invalidate %d bytes at %d of cached blob %s: %w", n, off, b.file.entry.digest, err)
	}
	return nil
}

// Close gives the handle back. The last one for a digest ends its fetches, makes
// everything durable and closes the file. To close twice is no error.
func (b *Blob) Close() error {
	if b.closed.Swap(true) {
		return nil
	}
	b.file.dropOrigin(b)
	return b.file.store.release(b.file.entry)
}

func (b *Blob) errorf(off int64, n int, err error) error {
	return fmt.Errorf("read %d bytes at %d of cached blob %s: %w", n, off, b.file.entry.digest, err)
}

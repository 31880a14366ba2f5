package cache

import (
	"context"
	"time"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/lazyblock"
)

// fetch is one request to the origin for blocks that are missing.
type fetch struct {
	off, end int64
	deadline time.Time // the first waiter's; zero: none
	ahead    bool      // nobody may be waiting, and it goes on
	cancel   context.CancelFunc
	hasten   func() // somebody waits for it now

	waiters   int  // under file.mu
	served    bool // under file.mu: a reader has left with what it needs, and it goes on
	abandoned bool // under file.mu: cancelled because the last waiter left

	early early
	done  chan struct{} // closed when what is below is set
	err   error
	data  []byte // the bytes, where they could not be kept; never changed
}

// start begins a fetch of [off, end). The caller holds f.mu.
func (f *file) start(ctx context.Context, off, end int64, ahead bool) *fetch {
	fe := &fetch{off: off, end: end, deadline: deadlineOf(ctx), ahead: ahead, done: make(chan struct{})}
	// The fetch outlives the reader that began it if others have joined.
	fctx := context.WithoutCancel(ctx)
	if fe.deadline.IsZero() {
		fctx, fe.cancel = context.WithCancel(fctx)
	} else {
		fctx, fe.cancel = context.WithDeadline(fctx, fe.deadline)
	}
	if ahead {
		fctx = lazyblock.WithPriority(fctx, lazyblock.Background)
	}
	fe.hasten = func() {}
	if lazyblock.PriorityOf(fctx) == lazyblock.Background {
		fctx, fe.hasten = lazyblock.Promotable(fctx)
	}
	f.fetches = append(f.fetches, fe)
	f.fetching.Go(func() { f.run(fctx, fe) }) // shutdown waits for it
	return fe
}

// run does the work of a fetch and tells its waiters.
func (f *file) run(ctx context.Context, fe *fetch) {
	defer fe.cancel()
	fe.data, fe.err = f.transfer(ctx, fe)
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, other := range f.fetches {
		if other == fe {
			last := len(f.fetches) - 1
			f.fetches[i], f.fetches[last] = f.fetches[last], nil
			f.fetches = f.fetches[:last]
			break
		}
	}
	close(fe.done)
}

// transfer brings what is fetched from the origin into the file, or returns the
// bytes where the file does not take them.
func (f *file) transfer(ctx context.Context, fe *fetch) ([]byte, error) {
	n := fe.end - fe.off
	release, err := f.store.budget.take(ctx, n)
	if err != nil {
		return nil, err
	}
	defer release()
	p := f.store.buffers.get(n)
	err = fe.early.fill(ctx, p, func(ctx context.Context) error { return f.fetchOrigin(ctx, p, fe.off) })
	if err != nil {
		f.store.buffers.put(p)
		return nil, err
	}
	if f.store.keep(f, p, fe.off) != nil {
		return p, nil
	}
	f.store.buffers.put(p)
	return nil, nil
}

// join adds a waiter. The caller holds f.mu.
func (fe *fetch) join(ctx context.Context) *fetch {
	fe.waiters++
	if lazyblock.PriorityOf(ctx) == lazyblock.Demand {
		fe.hasten()
	}
	return fe
}

// leave takes a waiter off; a fetch that nobody needs any more ends.
func (f *file) leave(fe *fetch) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fe.waiters--
	if fe.waiters > 0 || fe.ahead || fe.served {
		return
	}
	select {
	case <-fe.done:
	default:
		fe.abandoned = true
		fe.cancel()
	}
}

// awaitEarly waits until a fetch has brought its first n bytes, and reports whether
// the reader may take them and leave the rest to itself.
func (f *file) awaitEarly(ctx context.Context, fe *fetch, n int64) bool {
	f.mu.Lock()
	may := fe.served || f.unattended() < underWay
	f.mu.Unlock()
	if !may {
		return false
	}
	select {
	case <-fe.early.until(n):
		return true
	case <-fe.done:
	case <-ctx.Done():
	}
	return false
}

// copyEarly fills p with what a fetch has brought from off, which then goes on
// without its reader, and reports whether it could.
func (f *file) copyEarly(p []byte, off int64, fe *fetch) bool {
	if !fe.early.copy(p, off-fe.off) {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	fe.served = true
	return true
}

// await waits for a fetch. again means that it failed for a reason that is not
// this waiter's: another one's haste, or departure.
func (f *file) await(ctx context.Context, fe *fetch) (again bool, err error) {
	select {
	case <-fe.done:
	case <-ctx.Done():
		return false, ctx.Err()
	}
	if fe.err == nil {
		return false, nil
	}
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.done {
		return false, reason.Errorf(reason.Internal, "cache closed during the read: %w", fe.err)
	}
	mine := deadlineOf(ctx)
	hastier := !fe.deadline.IsZero() && (mine.IsZero() || mine.After(fe.deadline))
	return fe.abandoned || hastier, fe.err
}

package cache

import (
	"context"

	"golang.org/x/sync/semaphore"

	"github.com/referee-cri/referee/lazyblock"
)

// budget bounds the bytes of fetches under way. Those that nobody waits for wait
// for each other first, so that there is always room for one that is needed.
type budget struct {
	all, background *semaphore.Weighted
}

func newBudget(opts Options) *budget {
	return &budget{
		all:        semaphore.NewWeighted(opts.MaxBuffered),
		background: semaphore.NewWeighted(max(opts.MaxBuffered/2, opts.MaxRequest)),
	}
}

// take waits until n more bytes may be under way; release gives them back.
func (b *budget) take(ctx context.Context, n int64) (release func(), err error) {
	charged := false
	if lazyblock.PriorityOf(ctx) == lazyblock.Background {
		if charged, err = b.takeBackground(ctx, n); err != nil {
			return nil, err
		}
	}
	give := func() {
		if charged {
			b.background.Release(n)
		}
	}
	if err := b.all.Acquire(ctx, n); err != nil {
		give()
		return nil, err
	}
	return func() { b.all.Release(n); give() }, nil
}

// takeBackground waits for a share of the background's part; without one, ctx was
// promoted meanwhile and needs none.
func (b *budget) takeBackground(ctx context.Context, n int64) (charged bool, err error) {
	if b.background.TryAcquire(n) {
		return true, nil
	}
	wait, stop := lazyblock.UntilDemand(ctx)
	defer stop()
	if err := b.background.Acquire(wait, n); err == nil {
		return true, nil
	}
	return false, ctx.Err()
}

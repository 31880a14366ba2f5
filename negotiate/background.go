package negotiate

import (
	"context"
	"sync"

	"go.uber.org/zap"
)

// probedLegacy keys the verdict that a project's legacy endpoints have been
// looked for lately.
const probedLegacy Discovery = "probed"

// background runs what no pull waits for. The zero value is ready.
type background struct {
	mu      sync.Mutex
	closed  bool
	last    int
	running map[int]context.CancelFunc
	work    sync.WaitGroup
}

// Close stops what runs in the background and waits for it. Plans may still be
// made; they start nothing there any more.
func (n *Negotiator) Close() {
	n.background.mu.Lock()
	n.background.closed = true
	for _, cancel := range n.background.running {
		cancel()
	}
	n.background.mu.Unlock()
	n.background.work.Wait()
}

// start runs work, whose context outlives the caller's, unless the background is
// closed or first says no. Close waits for it.
func (b *background) start(ctx context.Context, first func() bool, work func(context.Context)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed || !first() {
		return
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	b.last++
	id := b.last
	if b.running == nil {
		b.running = map[int]context.CancelFunc{}
	}
	b.running[id] = cancel
	b.work.Go(func() {
		defer func() {
			cancel()
			b.mu.Lock()
			defer b.mu.Unlock()
			delete(b.running, id)
		}()
		work(ctx)
	})
}

// probeLater looks in the background whether the registry has legacy endpoints
// and lists something there, unless that was done for the same project today.
func (f *finder) probeLater(ctx context.Context, key listKey) {
	project := supportKeyOf(probedLegacy, f.repo.Registry(), f.repo.Path())
	first := func() bool {
		if f.n.support.of(project) != unknown {
			return false
		}
		f.n.support.note(project, supported)
		return true
	}
	f.n.background.start(ctx, first, func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, f.n.timeout)
		defer cancel()
		found := f.former(ctx, key, notUnsupported)
		if found.problem != nil {
			f.n.support.verdicts.put(project, supported, 1, supportTTL) // try again before a day is over
			f.log.Debug("legacy endpoints not probed", zap.String("repository", key.repository), zap.Error(found.problem))
		}
		if len(found.entries) > 0 {
			found.order()
			f.n.lists.put(key, found, 1+len(found.entries), presentTTL)
			f.log.Info("registry has legacy endpoints", zap.String("repository", key.repository), zap.Int("referrers", len(found.entries)))
		}
	})
}

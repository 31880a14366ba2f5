package blob

import (
	"context"
	"slices"
	"sync"

	"github.com/referee-cri/referee/lazyblock"
)

// turns lets a number of requests be under way at once. Who waits for a turn gets
// it in the order of arrival, Demand before Background, and Background never gets
// the last quarter: a Demand that comes finds the way free.
type turns struct {
	most [2]int // of all, and of Background

	mu      sync.Mutex
	busy    [2]int // by Priority
	waiting [2][]*waiter
}

type waiter struct{ turn chan struct{} } // closed when it has one

func newTurns(n int) *turns {
	n = max(n, 1)
	return &turns{most: [2]int{lazyblock.Demand: n, lazyblock.Background: max(n-max(n/4, 1), 1)}}
}

// take waits for a turn, which give gives back.
func (t *turns) take(ctx context.Context) (give func(), err error) {
	p := lazyblock.PriorityOf(ctx)
	t.mu.Lock()
	if t.free(p) && len(t.waiting[lazyblock.Demand]) == 0 && len(t.waiting[p]) == 0 {
		t.busy[p]++
		t.mu.Unlock()
		return func() { t.give(p) }, nil
	}
	w := &waiter{turn: make(chan struct{})}
	t.waiting[p] = append(t.waiting[p], w)
	t.mu.Unlock()

	var promoted <-chan struct{}
	if p == lazyblock.Background {
		promoted = lazyblock.Promotion(ctx)
	}
	for {
		select {
		case <-w.turn:
			return func() { t.give(p) }, nil
		case <-promoted:
			promoted = nil
			if t.leave(w, p) {
				p = lazyblock.Demand
				t.join(w, p)
			}
		case <-ctx.Done():
			if !t.leave(w, p) {
				t.give(p) // the turn came at the same moment
			}
			return nil, ctx.Err()
		}
	}
}

// spare takes a turn that nobody waits for, if there is one.
func (t *turns) spare() (give func(), ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.free(lazyblock.Demand) || len(t.waiting[lazyblock.Demand]) > 0 {
		return nil, false
	}
	t.busy[lazyblock.Demand]++
	return func() { t.give(lazyblock.Demand) }, true
}

// free reports whether a request of that priority may begin. The caller holds t.mu.
func (t *turns) free(p lazyblock.Priority) bool {
	all := t.busy[lazyblock.Demand] + t.busy[lazyblock.Background]
	return all < t.most[p]
}

func (t *turns) give(p lazyblock.Priority) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.busy[p]--
	t.admit()
}

func (t *turns) join(w *waiter, p lazyblock.Priority) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.waiting[p] = append(t.waiting[p], w)
	t.admit()
}

// leave takes w out of its queue; false: it has its turn already.
func (t *turns) leave(w *waiter, p lazyblock.Priority) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	i := slices.Index(t.waiting[p], w)
	if i < 0 {
		return false
	}
	t.waiting[p] = slices.Delete(t.waiting[p], i, i+1)
	t.admit() // a Demand that left may have held Background back
	return true
}

// admit gives turns to those whose turn it is. The caller holds t.mu.
func (t *turns) admit() {
	for _, p := range []lazyblock.Priority{lazyblock.Demand, lazyblock.Background} {
		for len(t.waiting[p]) > 0 {
			if !t.free(p) {
				return
			}
			w := t.waiting[p][0]
			t.waiting[p] = slices.Delete(t.waiting[p], 0, 1)
			t.busy[p]++
			close(w.turn)
		}
	}
}

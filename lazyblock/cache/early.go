package cache

import (
	"context"
	"sync"

	"github.com/referee-cri/referee/lazyblock/blob"
)

// early lets readers have what a fetch has brought so far: a miss fetches more
// than was asked for, and nobody has to wait for that.
type early struct {
	mu      sync.RWMutex
	p       []byte // being filled; nil before and after
	have    int64  // bytes of it
	waiting []earlyWaiter
}

type earlyWaiter struct {
	want  int64
	ready chan<- struct{} // closed
}

// fill calls fetch, which fills p and tells ctx of its progress.
func (e *early) fill(ctx context.Context, p []byte, fetch func(context.Context) error) error {
	e.mu.Lock()
	e.p, e.have = p, 0
	e.mu.Unlock()
	defer func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.p = nil
	}()
	return fetch(blob.WithProgress(ctx, e.more))
}

func (e *early) more(n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.have += int64(n)
	left := e.waiting[:0]
	for _, w := range e.waiting {
		if w.want <= e.have {
			close(w.ready)
		} else {
			left = append(left, w)
		}
	}
	e.waiting = left
}

// until returns what is closed when the first n bytes have come.
func (e *early) until(n int64) <-chan struct{} {
	ready := make(chan struct{})
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.p != nil && n <= e.have {
		close(ready)
	} else {
		e.waiting = append(e.waiting, earlyWaiter{n, ready})
	}
	return ready
}

// copy fills p with what was fetched from off, and reports whether it could: the
// buffer goes when the fetch ends.
func (e *early) copy(p []byte, off int64) bool {
	e.mu.RLock()
	defer e.mu.RUnlock()
	if e.p == nil || off+int64(len(p)) > e.have {
		return false
	}
	copy(p, e.p[off:])
	return true
}

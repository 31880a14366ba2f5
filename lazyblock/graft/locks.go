package graft

import (
	"context"
	"slices"
	"sync"

	"github.com/opencontainers/go-digest"
)

// chainLocks keeps two kinds of users of a chain ID apart: pulls that need its
// real content, and pulls that are content with a placeholder. Any number of one
// kind may hold a chain at the same time, never both kinds. A hold is taken as a
// whole or not at all, so holders cannot deadlock.
type chainLocks struct {
	mu      sync.Mutex
	changed chan struct{} // closed and replaced whenever a hold ends
	chains  map[digest.Digest]*chainUse
	all     int // holders that need the real content of chains they cannot name
	standIn int // placeholder holds in all
}

type chainUse struct {
	real, standIn int
	alone         bool // one of the real holders lets no other replace the content
	draining      bool // the last placeholder holder is taking the placeholder away
}

// hold is what one pull holds.
type hold struct {
	locks   *chainLocks
	real    []digest.Digest
	standIn []digest.Digest
	all     bool
	alone   bool // no second hold of real's chains that is alone, too
}

func newChainLocks() *chainLocks {
	return &chainLocks{changed: make(chan struct{}), chains: make(map[digest.Digest]*chainUse)}
}

// acquire waits until nobody holds a chain of want the other way, or ctx ends.
func (l *chainLocks) acquire(ctx context.Context, want hold) (*hold, error) {
	want.locks = l
	for {
		l.mu.Lock()
		if l.free(want) {
			l.take(want)
			l.mu.Unlock()
			return &want, nil
		}
		changed := l.changed
		l.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (l *chainLocks) free(want hold) bool {
	if want.all && l.standIn > 0 || len(want.standIn) > 0 && l.all > 0 {
		return false
	}
	for _, chain := range want.real {
		if use := l.chains[chain]; use != nil && (use.standIn > 0 || use.draining || want.alone && use.alone) {
			return false
		}
	}
	for _, chain := range want.standIn {
		if use := l.chains[chain]; use != nil && (use.real > 0 || use.draining) {
			return false
		}
	}
	return true
}

func (l *chainLocks) take(want hold) {
	for _, chain := range want.real {
		use := l.use(chain)
		use.real++
		use.alone = use.alone || want.alone
	}
	for _, chain := range want.standIn {
		l.use(chain).standIn++
	}
	l.standIn += len(want.standIn)
	if want.all {
		l.all++
	}
}

func (l *chainLocks) use(chain digest.Digest) *chainUse {
	use := l.chains[chain]
	if use == nil {
		use = &chainUse{}
		l.chains[chain] = use
	}
	return use
}

// release ends the hold. For each chain that it was the last to use as a
// placeholder, remove is called while everybody else is still kept away.
func (h *hold) release(remove func(digest.Digest)) {
	l := h.locks
	l.mu.Lock()
	var last []digest.Digest
	for _, chain := range h.standIn {
		use := l.chains[chain]
		if use.standIn > 1 {
			use.standIn--
			continue
		}
		use.draining = true // nobody joins or takes over until the placeholder is away
		last = append(last, chain)
	}
	l.mu.Unlock()
	// Top down: containerd's own unpacking may have put a child on one of them.
	for _, chain := range slices.Backward(last) {
		remove(chain)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, chain := range h.real {
		use := l.chains[chain]
		use.real--
		use.alone = use.alone && !h.alone
		l.drop(chain)
	}
	for _, chain := range last {
		use := l.chains[chain]
		use.standIn, use.draining = 0, false
		l.drop(chain)
	}
	l.standIn -= len(h.standIn)
	if h.all {
		l.all--
	}
	close(l.changed)
	l.changed = make(chan struct{})
}

func (l *chainLocks) drop(chain digest.Digest) {
	if use := l.chains[chain]; use.real == 0 && use.standIn == 0 {
		delete(l.chains, chain)
	}
}

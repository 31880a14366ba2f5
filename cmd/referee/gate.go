package main

import (
	"sync"
	"sync/atomic"

	"github.com/referee-cri/referee/internal/reason"
)

// gate keeps new forms from being attached while the node is drained. It is open
// again when the daemon starts.
type gate struct {
	shut    atomic.Bool
	passing sync.RWMutex // held for reading by whoever attaches
}

// check returns an error with reason.Draining while the gate is shut.
func (g *gate) check() error {
	if g.shut.Load() {
		return reason.Errorf(reason.Draining, "the node is being drained of lazy images (`referee drain --cancel` ends that)")
	}
	return nil
}

// enter is check, and has close wait until leave is called.
func (g *gate) enter() (leave func(), err error) {
	if err := g.check(); err != nil {
		return nil, err
	}
	g.passing.RLock()
	if err := g.check(); err != nil {
		g.passing.RUnlock()
		return nil, err
	}
	return g.passing.RUnlock, nil
}

// close shuts the gate and waits for those who have passed it.
func (g *gate) close() {
	g.shut.Store(true)
	g.passing.Lock()
	g.passing.Unlock() //nolint:gocritic,staticcheck // the wait is all
}

func (g *gate) open() { g.shut.Store(false) }

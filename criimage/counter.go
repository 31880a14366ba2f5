package criimage

import "sync"

// counter counts calls in flight and tells when there is none.
type counter struct {
	mu      sync.Mutex
	n       int
	waiting []chan struct{}
}

func (c *counter) enter() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n++
}

func (c *counter) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n
}

func (c *counter) leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n--
	if c.n > 0 {
		return
	}
	for _, idle := range c.waiting {
		close(idle)
	}
	c.waiting = nil
}

// idle returns a channel that is closed the next time nothing is in flight.
func (c *counter) idle() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	idle := make(chan struct{})
	if c.n == 0 {
		close(idle)
	} else {
		c.waiting = append(c.waiting, idle)
	}
	return idle
}

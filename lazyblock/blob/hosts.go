package blob

import (
	"sync"
	"time"
)

// The defaults of NewHosts.
const (
	defaultPerHost = 32
	maxHosts       = 256 // remembered; those asked longest ago are forgotten first
)

// Hosts bounds what all blobs of a node ask of each registry together. It is safe
// for concurrent use.
type Hosts struct {
	perHost int

	mu    sync.Mutex
	known map[string]*Host
}

// NewHosts returns Hosts that let perHost requests (0: 32) to each registry be
// under way at once. Reads that somebody waits for go first, and Background ones
// never take the last quarter.
func NewHosts(perHost int) *Hosts {
	if perHost == 0 {
		perHost = defaultPerHost
	}
	return &Hosts{perHost: perHost, known: make(map[string]*Host)}
}

// Host is what blobs of one registry share; see Options.Host.
type Host struct {
	turns *turns
	pace  pace
	used  time.Time // under Hosts.mu
}

// Of returns the Host of a registry, by its name in image references.
func (h *Hosts) Of(registry string) *Host {
	h.mu.Lock()
	defer h.mu.Unlock()
	host, ok := h.known[registry]
	if !ok {
		if len(h.known) >= maxHosts {
			h.forgetOldest()
		}
		host = &Host{turns: newTurns(h.perHost)}
		h.known[registry] = host
	}
	host.used = time.Now()
	return host
}

// forgetOldest bounds the memory that odd names can take. Blobs that hold the
// forgotten one go on with it.
func (h *Hosts) forgetOldest() {
	var oldest string
	for name, host := range h.known {
		if oldest == "" || host.used.Before(h.known[oldest].used) {
			oldest = name
		}
	}
	delete(h.known, oldest)
}

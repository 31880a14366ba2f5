package blob

import (
	"math/bits"
	"slices"
	"sync"
	"time"
)

// Bounds of second requests. Recent means so many ranges of about one length.
const (
	recentRanges = 128
	fewRanges    = 32                    // from which on it is known what is usual
	leastDelay   = 20 * time.Millisecond // no range is slow before that
	hedgePrice   = 25                    // requests without a second one that pay for one with: 4 %
	mostCredit   = 4 * hedgePrice        // saved up at most
	longestHedge = 4 << 20               // bytes of a range asked for twice, at most
)

// pace knows how long ranges of a registry take, by length, and how many more
// requests may be made for the sake of the slow ones.
type pace struct {
	mu      sync.Mutex
	lengths [8]took // up to 64 KiB, up to twice as much …
	credit  int
}

// took is a ring of how long ranges have taken.
type took struct {
	recent [recentRanges]time.Duration
	noted  int
	slow   time.Duration // their 99th percentile; 0: too little is known
}

func (p *pace) of(n int) *took {
	return &p.lengths[min(max(bits.Len(uint(n-1))-16, 0), len(p.lengths)-1)] //nolint:gosec // n > 0
}

// note remembers that a range of n bytes took d.
func (p *pace) note(n int, d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.credit = min(p.credit+1, mostCredit)
	t := p.of(n)
	t.recent[t.noted%recentRanges] = d
	t.noted++
	if t.noted >= fewRanges && t.noted%(fewRanges/2) == 0 {
		sorted := t.recent
		known := sorted[:min(t.noted, recentRanges)]
		slices.Sort(known)
		t.slow = max(known[(len(known)*99-1)/100], leastDelay)
	}
}

// slow is after what time a range of n bytes is slower than usual; 0: never.
func (p *pace) slow(n int) time.Duration {
	if n > longestHedge {
		return 0
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.of(n).slow
}

// pay reports whether a second request may be made, and takes its price.
func (p *pace) pay() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.credit < hedgePrice {
		return false
	}
	p.credit -= hedgePrice
	return true
}

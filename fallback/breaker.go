package fallback

import (
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/referee-cri/referee/internal/reason"
)

// verdict is what one pull learned about the health of somebody.
type verdict int

const (
	unknown verdict = iota // nothing either way
	healthy
	faulty
)

// maxBreakers bounds the memory that pulls from ever new hosts can take.
const maxBreakers = 1024

// breakers keeps one breaker per key. A breaker opens after so many faulty
// verdicts in a row, refuses everybody for a time, then lets one trial through:
// healthy closes it, faulty opens it again, unknown leaves the trial to the next.
//
// Only keys with a fault on record take memory. Safe for concurrent use.
type breakers struct {
	failures int
	openFor  time.Duration
	now      func() time.Time
	formats  bool // keys are formats of registries

	mu    sync.Mutex
	state map[string]*breaker
}

type breaker struct {
	failures int         // in a row
	last     reason.Code // of the latest
	touched  time.Time   // when that was
	until    time.Time   // closed to all before this, once failures reached the limit
	trial    bool        // one is under way
}

func newBreakers(failures int, openFor time.Duration, now func() time.Time) *breakers {
	return &breakers{failures: failures, openFor: openFor, now: now, state: map[string]*breaker{}}
}

// enter asks for a way through. leave must be called once with what was learned
// and, if that is faulty, why. The error has the code breaker-open.
func (b *breakers) enter(key string) (leave func(verdict, reason.Code), err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var trial bool
	if s := b.state[key]; s != nil && s.failures >= b.failures {
		if b.now().Before(s.until) || s.trial {
			return nil, reason.Errorf(reason.BreakerOpen, "%s failed %d times in a row, last with %s; next try after %s",
				key, s.failures, s.last, s.until.UTC().Format(time.RFC3339))
		}
		s.trial, trial = true, true
	}
	return func(v verdict, code reason.Code) { b.leave(key, trial, v, code) }, nil
}

func (b *breakers) leave(key string, trial bool, v verdict, code reason.Code) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.state[key]
	switch {
	case v == healthy:
		delete(b.state, key)
		return
	case v == faulty && s == nil:
		b.evict()
		s = &breaker{}
		b.state[key] = s
	case s == nil:
		return
	}
	if trial {
		s.trial = false
	}
	if v == unknown {
		return
	}
	s.failures++
	s.last, s.touched = code, b.now()
	// Pulls that entered before it opened may fail after: they do not prolong it.
	if trial || s.failures == b.failures {
		s.until = s.touched.Add(b.openFor)
	}
}

// Breaker tells of a registry, or a format of one, that failed lately.
type Breaker struct {
	Key      string      `json:"key"`
	Failures int         `json:"failures"` // in a row
	Last     reason.Code `json:"last"`     // of the latest
	Open     bool        `json:"open"`     // it is left alone …
	Until    time.Time   `json:"until,omitzero"`
	Format   bool        `json:"format"` // the key names a format of a registry, not a registry
}

func (b *breakers) list() []Breaker {
	b.mu.Lock()
	defer b.mu.Unlock()
	var list []Breaker
	for key, s := range b.state {
		list = append(list, Breaker{key, s.failures, s.last, s.failures >= b.failures && b.now().Before(s.until), s.until, b.formats})
	}
	slices.SortFunc(list, func(a, b Breaker) int { return strings.Compare(a.Key, b.Key) })
	return list
}

// Breakers lists whom pulls have found faulty and not yet healthy again.
func (g *Guard) Breakers() []Breaker { return append(g.registries.list(), g.forms.list()...) }

// evict makes room for one more.
func (b *breakers) evict() {
	if len(b.state) < maxBreakers {
		return
	}
	var oldest string
	for key, s := range b.state {
		if oldest == "" || s.touched.Before(b.state[oldest].touched) {
			oldest = key
		}
	}
	delete(b.state, oldest)
}

// planning judges a registry by the code with which negotiation ended.
func planning(code reason.Code) verdict {
	switch code {
	case reason.RegistryUnreachable, // each pull would wait for the connection again
		reason.RegistryError,  // overloaded or broken, and asking adds to it
		reason.BudgetExceeded: // too slow to be of use within the limit
		return faulty
	case reason.Cancelled, // the caller left: nothing was learned
		reason.Internal: // our defect, not the registry's
		return unknown
	default:
		// It answered in time. That the answer was no (not-found, unauthorized,
		// no-referrers, a form that does not fit) is about one image.
		return healthy
	}
}

// attaching judges a registry, and a format from it, by the code with which
// opening, mounting and grafting ended. The registry has answered negotiation.
func attaching(code reason.Code) (registry, form verdict) {
	switch code {
	case reason.None:
		return healthy, healthy
	case reason.RegistryUnreachable, // blobs come from elsewhere than manifests, and that fails
		reason.RegistryError:
		return faulty, unknown
	case reason.NoRange, // this registry cannot serve any form that is read in ranges
		reason.BudgetExceeded, // negotiation was quick, so it is opening or mounting that is slow
		reason.AttachFailed,   // the kernel or its driver: the next volume fares no better
		reason.ProbeFailed,    // mounted, yet not readable
		reason.GraftFailed,    // containerd's snapshotter
		reason.Internal:       // a defect of ours that would cost every pull its time
		return healthy, faulty
	case reason.Cancelled:
		return unknown, unknown
	default:
		// Corrupt, mismatched, refused: about one artifact, not about its neighbours.
		return healthy, unknown
	}
}

package negotiate

import (
	"context"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"

	"github.com/referee-cri/referee/internal/registry"
)

// How long a list of referrers is believed. A client that maintains the fallback
// tag can lose an entry to another for a moment, and an artifact may be attached
// just after its image: absence is a soft fact.
const (
	presentTTL = 5 * time.Minute
	absentTTL  = 45 * time.Second
)

// LegacyMode says whether a registry's pre-OCI endpoints are asked.
type LegacyMode int

// The modes.
const (
	// LegacyOff: never. For ordinary registries, which must not be charged a round trip.
	LegacyOff LegacyMode = iota
	// LegacyOn: always, at the same time as the current ones.
	LegacyOn
	// LegacyAuto: when the current ones know nothing attached; what the registry
	// lacks is remembered for a day. The first version of the endpoint cannot say
	// "not here" otherwise than "nothing attached", so it is asked each time.
	LegacyAuto
)

// finder asks one repository what is attached to a digest.
type finder struct {
	n      *Negotiator
	repo   *registry.Repository
	legacy LegacyMode
	log    *zap.Logger
}

// listKey names a remembered list. The repository's name includes its host.
type listKey struct {
	repository string
	subject    digest.Digest
	found      Discovery // FoundCosignTag, or "" for all that list referrers
}

// find lists what is attached to subject, by every way that is enabled for the
// repository.
func (f *finder) find(ctx context.Context, subject digest.Digest) listing {
	return f.remember(listKey{repository: f.repo.Name(), subject: subject}, func() listing { return f.ask(ctx, subject) })
}

// remember asks unless the answer is known.
func (f *finder) remember(key listKey, ask func() listing) listing {
	if known, ok := f.n.lists.get(key); ok {
		return known
	}
	found := ask()
	found.order()
	if found.problem == nil {
		ttl := presentTTL
		if len(found.entries) == 0 {
			ttl = absentTTL
		}
		f.n.lists.put(key, found, 1+len(found.entries), ttl)
	}
	return found
}

// lookahead is a list asked for before it is needed.
type lookahead struct {
	subject digest.Digest
	cancel  context.CancelFunc
	done    chan struct{} // closed when list is there
	list    listing
}

// ahead begins to ask what is attached to subject. Its goroutine ends by itself
// within timeout; stop waits for it.
func (f *finder) ahead(ctx context.Context, subject digest.Digest, timeout time.Duration) *lookahead {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	l := &lookahead{subject: subject, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(l.done)
		l.list = f.find(ctx, subject)
	}()
	return l
}

// wait returns the list, whose own time may end before that of ctx.
func (l *lookahead) wait(ctx context.Context) listing {
	select {
	case <-l.done:
		return l.list
	case <-ctx.Done():
		return listing{problem: ctx.Err()}
	}
}

// stop ends the asking, whether or not anybody wanted the answer.
func (l *lookahead) stop() {
	l.cancel()
	<-l.done
}

func (f *finder) ask(ctx context.Context, subject digest.Digest) listing {
	if f.legacy != LegacyOn {
		found := f.current(ctx, subject)
		if f.legacy == LegacyAuto && len(found.entries) == 0 {
			found.merge(f.former(ctx, subject))
		}
		return found
	}
	var found, former listing
	var both sync.WaitGroup // waited for below
	both.Go(func() { former = f.former(ctx, subject) })
	found = f.current(ctx, subject)
	both.Wait()
	if len(former.entries) > 0 && len(found.entries) == 0 {
		found.problem = nil // the other way has answered
	}
	found.merge(former)
	return found
}

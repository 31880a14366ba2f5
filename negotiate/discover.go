package negotiate

import (
	"context"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"

	"github.com/referee-cri/referee/internal/registry"
	"github.com/referee-cri/referee/negotiate/carry"
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
	// LegacyAuto: at the same time, where the registry has shown that it has them.
	// Whether it does is found out when the current ones know nothing attached:
	// in the background, once a day for each project of a registry, so that no
	// pull waits for it. What is found there, the next pull knows.
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
	legacyType string    // the artifact type that legacy endpoints were asked for, "" for all
}

// find lists the forms attached to subject, by every way that is enabled for the
// repository. Artifacts of other kinds may be among them.
func (f *finder) find(ctx context.Context, subject digest.Digest) listing {
	return f.lookUp(ctx, subject, f.legacyType())
}

// findAll lists everything attached to subject.
func (f *finder) findAll(ctx context.Context, subject digest.Digest) listing {
	return f.lookUp(ctx, subject, "")
}

func (f *finder) lookUp(ctx context.Context, subject digest.Digest, legacyType string) listing {
	key := listKey{repository: f.repo.Name(), subject: subject, legacyType: legacyType}
	found := f.remember(key, func() listing { return f.ask(ctx, key) })
	if f.legacy == LegacyAuto && len(found.entries) == 0 && found.problem == nil {
		f.probeLater(ctx, key)
	}
	return found
}

// remember asks unless the answer is known.
func (f *finder) remember(key listKey, ask func() listing) listing {
	if known, ok := f.n.lists.get(key); ok {
		return known
	}
	found := ask()
	found.order()
	f.unpack(found.entries)
	if found.problem == nil {
		ttl := presentTTL
		if len(found.entries) == 0 {
			ttl = absentTTL
		}
		f.n.lists.put(key, found, 1+len(found.entries), ttl)
	}
	return found
}

// maxUnpack is how many manifests one list may bring: as many as may be fetched for it.
const maxUnpack = 2 * maxFetches

// unpack remembers the manifests that entries carry, as if they had been fetched.
// Only a list that the registry keeps itself is believed to have what it names: in
// one under a fallback tag, artifacts stay that were deleted.
func (f *finder) unpack(entries []entry) {
	tried := 0
	for i := range entries {
		e := &entries[i]
		if e.annotations != nil && e.found == FoundReferrersAPI && tried < maxUnpack {
			tried++
			d := e.descriptor()
			d.Annotations = e.annotations
			if content := carry.Unpack(d); content != nil {
				f.n.artifacts.put(artifactKey{f.repo.Name(), d.Digest}, content, len(content), artifactTTL)
			}
		}
		e.annotations = nil
	}
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

func (f *finder) ask(ctx context.Context, key listKey) listing {
	var former listing
	var beside sync.WaitGroup // waited for below
	switch f.legacy {
	case LegacyOn:
		beside.Go(func() { former = f.former(ctx, key, notUnsupported) })
	case LegacyAuto:
		beside.Go(func() { former = f.former(ctx, key, onlySupported) })
	case LegacyOff:
	}
	found := f.current(ctx, key.subject)
	beside.Wait()
	if len(former.entries) > 0 && len(found.entries) == 0 {
		found.problem = nil // the other way has answered
	}
	found.merge(former)
	return found
}

package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/referee-cri/referee/e2e/node"
	"github.com/referee-cri/referee/fallback"
	"github.com/referee-cri/referee/internal/regtest"
)

// TestLayersThatCannotBeHad pulls an image whose chain is poisoned while its own
// layers do not come, or come wrong. It is refused until they do.
func TestLayersThatCannotBeHad(t *testing.T) {
	t.Parallel()
	s := newScene(t, node.Options{}, "")
	image := s.stack(t, "victim")
	victim, _ := s.push(t, "victim", "app", image)
	attacker := s.pushPoisoned(t, image)
	s.pull(t, attacker, fallback.Lazy)
	evil := start(t, s.lazy, attacker, "/bin/busybox", "sleep", "1000")
	layer := regtest.Path("/v2/victim/blobs/"+image.manifest.Layers[1].Digest.String(), http.MethodGet)
	for _, tc := range []struct {
		name   string
		fault  regtest.Fault
		within time.Duration // until the caller goes; 0: it waits
		code   codes.Code
		says   []string
	}{
		{"gone", regtest.Fault{Match: layer, Status: http.StatusNotFound}, 0, codes.Unavailable, []string{"404"}},
		{"private", regtest.Fault{Match: layer, Status: http.StatusForbidden}, 0, codes.Unavailable, []string{"403"}},
		{"other bytes", regtest.Fault{Match: layer, FlipAt: at(100)}, 0, codes.Unavailable, []string{"has digest"}},
		{"more slowly than the caller waits", regtest.Fault{Match: layer, Hang: true}, 500 * time.Millisecond, codes.DeadlineExceeded, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			repair := s.registry.Inject(tc.fault)
			defer repair()
			ctx, started := t.Context(), time.Now()
			if tc.within > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, tc.within)
				defer cancel()
			}
			_, err := s.lazy.Pull(ctx, victim, nil)
			if status.Code(errors.Unwrap(err)) != tc.code {
				t.Errorf("pull: %v, want %s", err, tc.code)
			}
			for _, want := range append(tc.says, image.chains()[3].String(), s.registry.Host()+"/victim", s.registry.Host()+"/attacker") {
				if tc.code == codes.Unavailable && !strings.Contains(fmt.Sprint(err), want) {
					t.Errorf("the refusal does not say %q: %v", want, err)
				}
			}
			if entry := s.explain(t, victim, started); len(entry.Materialised) > 0 || entry.Forward == nil || entry.Forward.Error == "" {
				t.Errorf("journal: %+v", entry)
			}
			if here, err := s.lazy.ImageStatus(t.Context(), victim); err != nil || here != nil {
				t.Errorf("the refused image is here: %v, %v", here, err)
			}
		})
	}
	dropCaches(t)
	s.expectEvil(t, evil)
	s.expectMaterialised(t, s.pull(t, victim, fallback.Ordinary), image.chains()[3], s.registry.Host()+"/attacker")
	s.expectHonest(t, victim, "victim")
	removePod(t, evil)
	s.expectClean(t, attacker, victim)
}

// TestMaterialisedOnce pulls two images together that need the same chain.
func TestMaterialisedOnce(t *testing.T) {
	t.Parallel()
	s := newScene(t, node.Options{}, "")
	base := s.stack(t, "base")
	attacker := s.pushPoisoned(t, base)
	var refs []string
	for _, own := range []string{"one", "two"} {
		ref, _ := s.push(t, "victim", own, s.stack(t, "base", own))
		refs = append(refs, ref)
	}
	s.pull(t, attacker, fallback.Lazy)
	s.registry.ResetRequests()
	s.pullAtOnce(t, refs...)
	for _, layer := range base.manifest.Layers {
		if n, _ := s.registry.Count(func(e regtest.Entry) bool {
			return strings.HasSuffix(e.Path, layer.Digest.String()) && e.Method == http.MethodGet
		}); n != 1 {
			t.Errorf("layer %s was fetched %d times", layer.Digest, n)
		}
	}
	if n := strings.Count(s.referee.Log(), "graft replaced by a plain directory"); n != 1 {
		t.Errorf("replaced %d times", n)
	}
	s.expectHonest(t, refs[0], "one")
	s.expectHonest(t, refs[1], "two")
	s.expectClean(t, append(refs, attacker)...)
}

// TestKilledWhileMaterialising kills the daemon while it fetches, unpacks, puts in
// place and after that. There is the form or the whole plain directory, never
// half of one, and the next pull succeeds.
func TestKilledWhileMaterialising(t *testing.T) {
	t.Parallel()
	s := newScene(t, node.Options{}, "")
	ends := make(map[string]int)
	for i, moment := range []struct {
		layer int // that was asked for
		after time.Duration
	}{{0, 0}, {3, 0}, {3, 40}, {3, 80}, {3, 120}, {3, 170}, {3, 230}, {3, 400}} {
		own := fmt.Sprintf("killed %d", i)
		image := s.stack(t, own)
		victim, _ := s.push(t, "victim", "app", image)
		attacker := s.pushPoisoned(t, image)
		s.pull(t, attacker, fallback.Lazy)
		evil := start(t, s.lazy, attacker, "/bin/busybox", "sleep", "1000")

		s.killMeanwhile(t, victim, image.manifest.Layers[moment.layer].Digest, moment.after*time.Millisecond)
		s.begin(t)
		ends[s.expectOneOf(t, attacker, own)]++
		s.expectEvil(t, evil)
		if _, err := s.lazy.Pull(t.Context(), victim, nil); err != nil {
			t.Fatal(err)
		}
		s.expectHonest(t, victim, own)
		removePod(t, evil)
		s.expectClean(t, attacker, victim)
	}
	t.Logf("after the kills there was: %v", ends)
}

// killMeanwhile begins to pull the victim and kills the daemon some time after
// it has asked for a layer, which never comes if that is at once.
func (s *scene) killMeanwhile(t *testing.T, victim string, layer digest.Digest, after time.Duration) {
	t.Helper()
	asked := make(chan struct{})
	once := sync.OnceFunc(func() { close(asked) })
	repair := s.registry.Inject(regtest.Fault{Hang: after == 0, Match: func(r *http.Request) bool {
		found := r.URL.Path == "/v2/victim/blobs/"+layer.String() && refereeAsks(r)
		if found {
			once()
		}
		return found
	}})
	defer repair()
	pulled := make(chan error, 1)
	go func() { // ends with the daemon; waited for below
		_, err := s.lazy.Pull(t.Context(), victim, nil)
		pulled <- err
	}()
	select {
	case <-asked:
	case err := <-pulled:
		t.Fatalf("pulled without the layer: %v", err)
	}
	select {
	case <-t.Context().Done():
	case <-time.After(after):
	}
	s.end(t, s.referee.Kill)
	if err := <-pulled; err == nil {
		t.Logf("the pull was over %v after it asked for the layer", after)
	}
}

// refereeAsks tells our requests from containerd's.
func refereeAsks(r *http.Request) bool { return strings.HasPrefix(r.UserAgent(), "referee/") }

// expectOneOf compares the whole tree of a new container with both that it may be.
func (s *scene) expectOneOf(t *testing.T, ref, own string) string {
	t.Helper()
	container := start(t, s.lazy, ref, "/bin/busybox", "sleep", "1000")
	defer removePod(t, container)
	if _, plain := treeOf(t, s.Node, container)["/own"]; plain {
		s.expectOwn(t, container, own)
		return "the plain directory"
	}
	s.expectEvil(t, container)
	return "the form"
}

// TestMaterialisedNeedsNobody starts a container from what was materialised,
// after a power cycle, without the daemon.
func TestMaterialisedNeedsNobody(t *testing.T) {
	t.Parallel()
	s := newScene(t, node.Options{}, "")
	image := s.stack(t, "base", "victim")
	victim, _ := s.push(t, "victim", "app", image)
	attacker := s.pushPoisoned(t, s.stack(t, "base"))
	s.pull(t, attacker, fallback.Lazy)
	evil := start(t, s.lazy, attacker, "/bin/busybox", "sleep", "1000")
	s.expectMaterialised(t, s.pull(t, victim, fallback.Ordinary), image.chains()[3], s.registry.Host()+"/attacker")

	s.cyclePower(t)
	container, err := s.CRI().Run(t.Context(), "alone", victim, "/bin/busybox", "sleep", "1000")
	if err != nil {
		t.Fatal(err)
	}
	s.expectOwn(t, container, "victim")
	removePod(t, container)
	s.begin(t)
	removePod(t, evil)
	s.expectClean(t, attacker, victim)
}

// TestConfirmingIsCheap measures what it costs an ordinary pull to know what its
// image stands on.
func TestConfirmingIsCheap(t *testing.T) {
	t.Parallel()
	s := newScene(t, node.Options{}, "")
	ordinary, _ := s.push(t, "ordinary", "app", s.stack(t, "1", "2", "3", "4", "5")) // eight layers
	measure := func() time.Duration {
		var took []time.Duration
		for range 9 {
			took = append(took, s.pull(t, ordinary, fallback.Ordinary).Steps.Confirm.Duration())
			if err := s.lazy.Remove(t.Context(), ordinary); err != nil {
				t.Fatal(err)
			}
		}
		slices.Sort(took)
		return took[len(took)/2]
	}
	without := measure()
	var lazy []string
	for i := range 20 {
		ref, manifest := s.push(t, "attacker", fmt.Sprint(i), s.stack(t, fmt.Sprint("graft ", i)))
		s.poison(t, manifest)
		s.pull(t, ref, fallback.Lazy)
		lazy = append(lazy, ref)
	}
	with := measure()
	t.Logf("confirming takes %v, with 20 grafts on the node %v", without, with)
	if limit := 50 * time.Millisecond; without > limit || with > limit {
		t.Errorf("more than %v", limit)
	}
	s.expectClean(t, lazy...)
}

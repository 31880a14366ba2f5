package e2e_test

import (
	"slices"
	"testing"
	"time"

	"github.com/referee-cri/referee/internal/regtest"
)

const (
	// settlingFiles are as much as fits in the cache twice: encoded and decoded.
	settlingFiles = 6
	// settling completes and settles those in some ten seconds, so that the daemon
	// ends in the middle of it.
	settling = "[completion]\nrate = \"4MiB\"\ndelay = \"100ms\"\nspare_disk = \"0%\"\n"
)

// onNode are the events of which a settled image must notice nothing, although
// there is no registry.
var onNode = []string{"kill", "restart", "upgrade", "freeze", "no free descriptors", "full disk", "cold kernel"}

// TestSoakSettled has two containers of one image read at random while the image
// settles under them. The daemon is killed again and again until it has settled.
// Then the registry is gone for good, things happen to the node, and nothing is
// an excuse for an error.
func TestSoakSettled(t *testing.T) {
	t.Parallel()
	kills, seed := soakNumber(t, soakKills, 8), uint64(soakNumber(t, soakSeed, int(time.Now().UnixNano()))) //nolint:gosec // any bits
	t.Logf("%s=%d %s=%d", soakKills, kills, soakSeed, seed)
	s := newSoak(t, seed, settling)
	s.start(t, settlingFiles, seed)
	killed := 0
	for ; !s.mountedFromCache(t); killed++ {
		if killed > 120 { // after some twelve minutes
			t.Fatal("the image never settles")
		}
		s.happen(t, soakEvent{"kill", kill})
		s.wait(t, 0, time.Duration(killed)*200*time.Millisecond) // in the end it can
	}
	if killed < 2 {
		t.Errorf("settled before the daemon was killed twice")
	}
	s.registry.Inject(regtest.Fault{Drop: true})
	events := slices.DeleteFunc(soakEvents(), func(e soakEvent) bool { return !slices.Contains(onNode, e.name) })
	if len(events) != len(onNode) {
		t.Fatalf("%d events of the node, want %v", len(events), onNode)
	}
	for range max(kills/len(onNode), 1) {
		s.random.Shuffle(len(events), func(i, k int) { events[i], events[k] = events[k], events[i] })
		for _, event := range events {
			s.happen(t, event)
		}
	}
	s.judge(t)
	s.expectNothingLeft(t)
}

package blob_test

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/referee-cri/referee/internal/eventually"
	"github.com/referee-cri/referee/internal/registry"
	"github.com/referee-cri/referee/internal/regtest"
	"github.com/referee-cri/referee/lazyblock"
	"github.com/referee-cri/referee/lazyblock/blob"
)

// TestDemandPassesBackground fills a registry with background reads that get no
// answer: those of one blob must not hold up another's reader.
func TestDemandPassesBackground(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	opts := quick()
	opts.Host = blob.NewHosts(4).Of(s.reg.Host())
	repo := s.repository(t, registry.Options{})
	busy, idle := blob.Open(repo, s.desc, opts), blob.Open(repo, s.desc, opts)

	var hung atomic.Int32
	remove := s.reg.Inject(regtest.Fault{Hang: true, Match: func(r *http.Request) bool {
		if strings.HasPrefix(r.Header.Get("Range"), "bytes=0-") {
			return false
		}
		hung.Add(1)
		return true
	}})
	ctx, cancel := context.WithCancel(lazyblock.WithPriority(t.Context(), lazyblock.Background))
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	for i := range 10 {
		wg.Go(func() { _, _ = busy.ReadRange(ctx, make([]byte, 100), int64(1000+i)) }) // ends by cancel
	}
	eventually.True(t, "three requests hang", func() bool { return hung.Load() == 3 })
	s.check(t, idle, 0, 100)

	promotable, promote := lazyblock.Promotable(t.Context())
	done := make(chan error, 1)
	wg.Go(func() {
		_, err := idle.ReadRange(promotable, make([]byte, 200), 0)
		done <- err
	})
	s.check(t, idle, 0, 300)
	select {
	case err := <-done:
		t.Fatalf("a background read took the last place: %v", err)
	default:
	}
	promote()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if n := hung.Load(); n != 3 {
		t.Errorf("%d background requests at once, want 3", n)
	}
	remove()
}

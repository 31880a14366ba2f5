package blob

import (
	"context"
	"slices"
	"sync"
	"testing"

	"github.com/referee-cri/referee/internal/eventually"
	"github.com/referee-cri/referee/lazyblock"
)

func (t *turns) queued(p lazyblock.Priority) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.waiting[p])
}

func (t *turns) taken() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.busy[lazyblock.Demand] + t.busy[lazyblock.Background]
}

func TestTurnsComeInOrder(t *testing.T) {
	t.Parallel()
	turns := newTurns(1)
	first, err := turns.take(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var got []string
	var wg sync.WaitGroup
	queue := func(name string, ctx context.Context) {
		before := turns.queued(lazyblock.Demand) + turns.queued(lazyblock.Background)
		wg.Go(func() {
			give, err := turns.take(ctx)
			if err != nil {
				t.Errorf("%s: %v", name, err)
				return
			}
			mu.Lock()
			got = append(got, name)
			mu.Unlock()
			give()
		})
		eventually.True(t, name+" waits", func() bool { return turns.queued(lazyblock.Demand)+turns.queued(lazyblock.Background) == before+1 })
	}
	background := lazyblock.WithPriority(t.Context(), lazyblock.Background)
	promotable, promote := lazyblock.Promotable(t.Context())
	queue("background 1", background)
	queue("promoted", promotable)
	queue("demand 1", t.Context())
	queue("background 2", background)
	queue("demand 2", t.Context())
	promote()
	promote()
	eventually.True(t, "promotion", func() bool { return turns.queued(lazyblock.Demand) == 3 })
	first()
	wg.Wait()
	want := []string{"demand 1", "demand 2", "promoted", "background 1", "background 2"}
	if !slices.Equal(got, want) {
		t.Errorf("turns went to %q, want %q", got, want)
	}
	if lazyblock.PriorityOf(promotable) != lazyblock.Demand {
		t.Error("a promoted context is still Background")
	}
	if n := turns.taken(); n != 0 {
		t.Errorf("%d turns not given back", n)
	}
}

func TestBackgroundLeavesRoom(t *testing.T) {
	t.Parallel()
	for n, want := range map[int]int{1: 1, 2: 1, 4: 3, 8: 6, 32: 24} {
		turns := newTurns(n)
		ctx, cancel := context.WithCancel(lazyblock.WithPriority(t.Context(), lazyblock.Background))
		var wg sync.WaitGroup
		for range n + 5 {
			wg.Go(func() {
				if give, err := turns.take(ctx); err == nil {
					<-ctx.Done()
					give()
				}
			})
		}
		eventually.True(t, "everyone waits or goes", func() bool { return turns.taken()+turns.queued(lazyblock.Background) == n+5 })
		if got := turns.taken(); got != want {
			t.Errorf("of %d turns %d went to background work, want %d", n, got, want)
		}
		for range n - want {
			give, err := turns.take(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			give()
		}
		cancel()
		wg.Wait()
		if got := turns.taken(); got != 0 {
			t.Errorf("%d turns not given back", got)
		}
	}
}

func TestHostsForgetTheOldest(t *testing.T) {
	t.Parallel()
	hosts := NewHosts(0)
	a, b := hosts.Of("a"), hosts.Of("b")
	if again := hosts.Of("a"); again != a || a == b {
		t.Fatal("a registry has one Host, and each its own")
	}
	for i := range 3 * maxHosts {
		hosts.Of(string(rune('A' + i)))
	}
	if n := len(hosts.known); n != maxHosts {
		t.Errorf("%d hosts remembered, want %d", n, maxHosts)
	}
}

package graft

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

func chain(name string) digest.Digest { return digest.FromString(name) }

func TestChainLocksKeepKindsApart(t *testing.T) {
	t.Parallel()
	a, b := chain("a"), chain("b")
	for name, tc := range map[string]struct {
		held, want hold
		free       bool
	}{
		"two ordinary pulls share a chain":       {hold{real: []digest.Digest{a}}, hold{real: []digest.Digest{a}}, true},
		"two lazy pulls share a placeholder":     {hold{standIn: []digest.Digest{a}}, hold{standIn: []digest.Digest{a}}, true},
		"content waits for a placeholder":        {hold{standIn: []digest.Digest{a}}, hold{real: []digest.Digest{a}}, false},
		"a placeholder waits for content":        {hold{real: []digest.Digest{a}}, hold{standIn: []digest.Digest{a}}, false},
		"other chains do not matter":             {hold{real: []digest.Digest{a}}, hold{standIn: []digest.Digest{b}}, true},
		"an unknown image waits for any":         {hold{standIn: []digest.Digest{a}}, hold{all: true}, false},
		"a placeholder waits for unknown images": {hold{all: true}, hold{standIn: []digest.Digest{a}}, false},
		"a replacement waits for another":        {hold{real: []digest.Digest{a}, alone: true}, hold{real: []digest.Digest{a}, alone: true}, false},
		"a pull does not wait for a replacement": {hold{real: []digest.Digest{a}, alone: true}, hold{real: []digest.Digest{a}}, true},
		"a replacement does not wait for pulls":  {hold{real: []digest.Digest{a}}, hold{real: []digest.Digest{a}, alone: true}, true},
		"unknown images share":                   {hold{all: true}, hold{all: true, real: []digest.Digest{a}}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			locks := newChainLocks()
			held, err := locks.acquire(t.Context(), tc.held)
			if err != nil {
				t.Fatal(err)
			}
			done, cancel := context.WithCancel(t.Context())
			cancel() // acquire looks before it waits
			got, err := locks.acquire(done, tc.want)
			if tc.free {
				if err != nil {
					t.Fatalf("not free: %v", err)
				}
				got.release(func(digest.Digest) {})
			} else if !errors.Is(err, context.Canceled) {
				t.Fatalf("got %v, want to wait until cancelled", err)
			}
			held.release(func(digest.Digest) {})
			if again, err := locks.acquire(t.Context(), tc.want); err != nil {
				t.Fatal(err)
			} else {
				again.release(func(digest.Digest) {})
			}
			if len(locks.chains) != 0 || locks.all != 0 || locks.standIn != 0 {
				t.Errorf("left behind: %+v", locks)
			}
		})
	}
}

// TestChainLocksUnderLoad runs many holders and checks at every moment that
// nobody sees a placeholder where content is needed, nor the other way round.
func TestChainLocksUnderLoad(t *testing.T) {
	t.Parallel()
	locks := newChainLocks()
	chains := []digest.Digest{chain("0"), chain("1"), chain("2"), chain("3")}
	var standing [4]atomic.Bool // is there a placeholder?
	index := func(c digest.Digest) int {
		for i := range chains {
			if chains[i] == c {
				return i
			}
		}
		return -1
	}
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(uint64(worker), 0))
			for range 300 {
				cut := random.IntN(len(chains) + 1)
				want := hold{standIn: chains[:cut], real: chains[cut:]}
				if random.IntN(10) == 0 {
					want = hold{all: true}
				}
				ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
				held, err := locks.acquire(ctx, want)
				cancel()
				if err != nil {
					t.Error(err)
					return
				}
				for _, c := range want.standIn {
					standing[index(c)].Store(true)
				}
				for _, c := range want.real {
					if standing[index(c)].Load() {
						t.Error("a placeholder stands where content is held")
					}
				}
				if want.all {
					for i := range standing {
						if standing[i].Load() {
							t.Error("a placeholder stands while an unknown image is pulled")
						}
					}
				}
				held.release(func(c digest.Digest) { standing[index(c)].Store(false) })
			}
		})
	}
	wg.Wait()
	for i := range standing {
		if standing[i].Load() {
			t.Errorf("placeholder %d was never taken away", i)
		}
	}
}

package cache

import (
	"bytes"
	"context"
	"sync"
	"testing"
	"time"

	"github.com/referee-cri/referee/lazyblock"
)

// gatedSource holds reads back until they are Demand, and tells of each that came.
type gatedSource struct {
	*source
	came chan context.Context
}

func (s gatedSource) ReadRange(ctx context.Context, p []byte, off int64) (int, error) {
	s.came <- ctx
	until, stop := lazyblock.UntilDemand(ctx)
	defer stop()
	if lazyblock.PriorityOf(ctx) == lazyblock.Background {
		<-until.Done()
	}
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	return s.source.ReadRange(ctx, p, off)
}

// TestReaderHastensWhatWasFetchedAhead joins a reader to a prefetch that waits for
// everybody else: waiting with it would turn the order round.
func TestReaderHastensWhatWasFetchedAhead(t *testing.T) {
	t.Parallel()
	src := gatedSource{newSource(1, 8*mib), make(chan context.Context, 100)}
	store := openStore(t, t.TempDir(), Options{})
	b, err := store.Blob(src.desc(), src)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := b.Prefetch(lazyblock.WithPriority(t.Context(), lazyblock.Background), 0, mib); err != nil {
			t.Error(err)
		}
	})
	background := <-src.came
	if got := lazyblock.PriorityOf(background); got != lazyblock.Background {
		t.Fatalf("the prefetch came with priority %d", got)
	}
	check(t, b, src.source, 64*kib, 4*kib)
	wg.Wait()
	if got := lazyblock.PriorityOf(background); got != lazyblock.Demand {
		t.Errorf("a reader waited for it, and its priority is %d", got)
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
}

// TestBackgroundLeavesMemoryToReaders fills the budget with fetches that nobody
// waits for.
func TestBackgroundLeavesMemoryToReaders(t *testing.T) {
	t.Parallel()
	b := newBudget(Options{MaxBuffered: 8, MaxRequest: 2})
	background := lazyblock.WithPriority(t.Context(), lazyblock.Background)
	for range 2 {
		release, err := b.take(background, 2)
		if err != nil {
			t.Fatal(err)
		}
		defer release()
	}
	short, cancel := context.WithTimeout(background, 10*time.Millisecond)
	defer cancel()
	if _, err := b.take(short, 2); err == nil {
		t.Error("background fetches took more than half")
	}
	promotable, promote := lazyblock.Promotable(t.Context())
	promoted := make(chan error, 1)
	go func() { // ends by promote
		release, err := b.take(promotable, 2)
		if err == nil {
			release()
		}
		promoted <- err
	}()
	promote()
	if err := <-promoted; err != nil {
		t.Error(err)
	}
	release, err := b.take(t.Context(), 4)
	if err != nil {
		t.Fatal(err)
	}
	release()
}

// TestReadsAreSplit: each part comes over a connection of its own.
func TestReadsAreSplit(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		hurried          bool
		length, requests int64
	}{
		"in a hurry, one block":       {true, 4 * kib, 1},
		"in a hurry, a round trip":    {true, 12 * kib, 1},
		"in a hurry, a usual tail":    {true, 50 * kib, 5},
		"in a hurry, a long one":      {true, 2 * mib, 8},
		"in a hurry, not whole parts": {true, 600 * kib, 8},
		"a span":                      {false, mib, 8},
		"a short span":                {false, 512 * kib, 4},
		"not so long":                 {false, 500 * kib, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			src := newSource(1, 8*mib)
			b := openBlob(t, openStore(t, t.TempDir(), Options{MaxReadAhead: -1}), src)
			ctx := t.Context()
			if tc.hurried {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, time.Minute)
				defer cancel()
			}
			p := make([]byte, tc.length)
			if _, err := b.ReadRange(ctx, p, mib); err != nil || !bytes.Equal(p, src.content[mib:mib+tc.length]) {
				t.Fatalf("wrong bytes: %v", err)
			}
			if n := int64(len(src.requests())); n != tc.requests {
				t.Errorf("%d requests of %d bytes, want %d: %v", n, tc.length, tc.requests, src.requests())
			}
		})
	}
}

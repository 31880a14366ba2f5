package cache

import (
	"context"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestNeighboursOfALoneMissAreFetched(t *testing.T) {
	t.Parallel()
	src := newSource(1, 16*mib)
	b := openBlob(t, openStore(t, t.TempDir(), Options{Guess: 2 * mib}), src)
	check(t, b, src, 4*mib, 4*kib)
	waitCached(t, b, 256*kib+mib)
	src.requests()
	for _, off := range []int64{4*mib + 900*kib, 4*mib + 300*kib, 5 * mib} {
		check(t, b, src, off, 128*kib)
	}
	if asked := src.requests(); len(asked) > 0 {
		t.Errorf("neighbours asked for again: %v", asked)
	}
}

func waitCached(t *testing.T, b *Blob, n int64) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for b.Cached() < n {
		if time.Now().After(deadline) {
			t.Fatalf("%d bytes cached, want %d", b.Cached(), n)
		}
		select {
		case <-time.After(time.Millisecond):
		case <-t.Context().Done():
		}
	}
}

// TestGuessesThatAreOfNoUseEnd reads places whose neighbours nobody wants.
func TestGuessesThatAreOfNoUseEnd(t *testing.T) {
	t.Parallel()
	const reads = 60
	src := newSource(1, 64*mib)
	b := openBlob(t, openStore(t, t.TempDir(), Options{Guess: 512 * kib}), src)
	for i, slot := range rand.New(rand.NewPCG(1, 2)).Perm(64)[:reads] {
		check(t, b, src, int64(slot)*mib, 4*kib)
		waitQuiet(t, b, i)
	}
	guessed := (src.fetched() - reads*256*kib) / (256 * kib)
	if most := int64(judged + 1 + reads/probation); guessed < judged || guessed > most {
		t.Errorf("%d guesses in %d reads, want %d to %d", guessed, reads, judged, most)
	}
}

// waitQuiet waits until no fetch is under way, so that none stands in for a guess.
func waitQuiet(t *testing.T, b *Blob, read int) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for {
		b.file.mu.Lock()
		n := len(b.file.fetches)
		b.file.mu.Unlock()
		if n == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("read %d: %d fetches under way", read, n)
		}
		select {
		case <-time.After(time.Millisecond):
		case <-t.Context().Done():
		}
	}
}

func TestGuessesThatAreOfUseGrow(t *testing.T) {
	t.Parallel()
	src := newSource(1, 64*mib)
	b := openBlob(t, openStore(t, t.TempDir(), Options{Guess: 2 * mib}), src)
	for i := range 2 * judged {
		off := int64(i*7%(2*judged)) * 4 * mib
		check(t, b, src, off, 4*kib)
		waitQuiet(t, b, i)
		check(t, b, src, off+512*kib, 4*kib)
	}
	var longest int64
	for _, asked := range src.requests() {
		longest = max(longest, asked[1])
	}
	if longest != 2*mib {
		t.Errorf("longest guess is %d", longest)
	}
}

func TestReadInAHurryFetchesNoMoreThanItsBlocks(t *testing.T) {
	t.Parallel()
	src := newSource(1, 16*mib)
	b := openBlob(t, openStore(t, t.TempDir(), Options{Guess: 2 * mib}), src)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := b.ReadRange(ctx, make([]byte, 33*kib), 4*mib+101*kib); err != nil {
		t.Fatal(err)
	}
	waitQuiet(t, b, 0)
	asked := src.requests()
	sortRanges(asked)
	want := [][2]int64{{4*mib + 100*kib, 12 * kib}, {4*mib + 112*kib, 12 * kib}, {4*mib + 124*kib, 12 * kib}}
	if diff := cmp.Diff(want, asked); diff != "" {
		t.Errorf("asked for (-want +got):\n%s", diff)
	}
}

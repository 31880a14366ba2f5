package cache

import (
	"bytes"
	"context"
	"errors"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/lazyblock"
)

func atOnce(context.Context, int64) error { return nil }

func TestSealSurvivesUntilSomethingIsInvalidated(t *testing.T) {
	t.Parallel()
	truth := newSource(1, 300*kib+17)
	dir := t.TempDir()
	open := func() (*Store, *Blob) {
		t.Helper()
		s, err := Open(dir, cacheOpts())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		b, err := s.Blob(truth.desc(), truth)
		if err != nil {
			t.Fatal(err)
		}
		return s, b
	}
	s, b := open()
	want := truth.desc().Digest
	check(t, b, truth, 100*kib, 1000)
	if err := b.Seal(t.Context(), want, atOnce); !errors.Is(err, ErrNotWhole) || b.Sealed() {
		t.Errorf("a part of a blob: sealed %t, %v", b.Sealed(), err)
	}
	if err := b.Prefetch(t.Context(), 0, b.Size()); err != nil {
		t.Fatal(err)
	}
	if err := b.Seal(t.Context(), want, atOnce); err != nil || !b.Sealed() {
		t.Fatalf("sealed %t, %v", b.Sealed(), err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s, b = open()
	if !b.Sealed() || b.Cached() != truth.Size() {
		t.Errorf("after a restart: sealed %t, %d bytes", b.Sealed(), b.Cached())
	}
	if err := b.Invalidate(t.Context(), 5, 1); err != nil || b.Sealed() {
		t.Errorf("after invalidation: sealed %t, %v", b.Sealed(), err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, b = open(); b.Sealed() || b.Cached() != truth.Size()-4*kib {
		t.Errorf("after invalidation and a restart: sealed %t, %d bytes", b.Sealed(), b.Cached())
	}
}

func TestSealRefuses(t *testing.T) {
	t.Parallel()
	truth := newSource(2, 100*kib)
	gone := errors.New("no time")
	for name, tc := range map[string]struct {
		spoil func(s *source)
		pace  func(*Blob) func(context.Context, int64) error
		want  error
	}{
		"other bytes": {
			func(s *source) { s.content[70*kib] ^= 1 },
			func(*Blob) func(context.Context, int64) error { return atOnce }, ErrOtherContent,
		},
		"what is forgotten meanwhile": {
			func(*source) {},
			func(b *Blob) func(context.Context, int64) error {
				return func(ctx context.Context, _ int64) error { return b.Invalidate(ctx, 0, 1) }
			}, ErrNotWhole,
		},
		"when it may not go on": {
			func(*source) {},
			func(*Blob) func(context.Context, int64) error {
				return func(context.Context, int64) error { return gone }
			}, gone,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, err := Open(t.TempDir(), cacheOpts())
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = s.Close() }()
			origin := newSource(2, 100*kib)
			tc.spoil(origin)
			b, err := s.Blob(truth.desc(), origin)
			if err != nil {
				t.Fatal(err)
			}
			if err := b.Prefetch(t.Context(), 0, b.Size()); err != nil {
				t.Fatal(err)
			}
			err = b.Seal(t.Context(), truth.desc().Digest, tc.pace(b))
			if !errors.Is(err, tc.want) || b.Sealed() {
				t.Errorf("sealed %t, %v", b.Sealed(), err)
			}
			if errors.Is(err, ErrOtherContent) && reason.Of(err) != reason.DigestMismatch {
				t.Errorf("reason %q", reason.Of(err))
			}
		})
	}
}

func TestMissingNamesRunsInOrder(t *testing.T) {
	t.Parallel()
	s, err := Open(t.TempDir(), cacheOpts())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	truth := newSource(3, 200*kib+1)
	b, err := s.Blob(truth.desc(), truth)
	if err != nil {
		t.Fatal(err)
	}
	for _, off := range []int64{8 * kib, 12 * kib, 120 * kib} {
		if err := b.Prefetch(t.Context(), off, 1); err != nil {
			t.Fatal(err)
		}
	}
	var got [][2]int64
	for at, n := b.Missing(0); n > 0; at, n = b.Missing(at + n) {
		got = append(got, [2]int64{at, n})
	}
	want := [][2]int64{{0, 8 * kib}, {16 * kib, 64 * kib}, {80 * kib, 40 * kib}, {124 * kib, 64 * kib}, {188 * kib, 12*kib + 1}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestWaitedIsNowWhileAReaderWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, err := Open(t.TempDir(), cacheOpts())
		if err != nil {
			t.Fatal(err)
		}
		truth, other := newSource(4, 100*kib), newSource(5, 100*kib)
		gate := make(chan struct{})
		truth.hook = func(context.Context, int64, int) error { <-gate; return nil }
		b, err := s.Blob(truth.desc(), truth)
		if err != nil {
			t.Fatal(err)
		}
		quiet, err := s.Blob(other.desc(), other)
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error)
		go func() { // awaited below
			_, err := b.ReadRange(t.Context(), make([]byte, 10), 0)
			done <- err
		}()
		synctest.Wait()
		time.Sleep(time.Minute) //nolint:forbidigo // the bubble's clock
		if here, anywhere := b.Waited(); !here.Equal(time.Now()) || !anywhere.Equal(time.Now()) {
			t.Errorf("while waiting: %s, %s", here, anywhere)
		}
		if here, _ := quiet.Waited(); !here.IsZero() {
			t.Errorf("of another blob: %s", here)
		}
		close(gate)
		if err := <-done; err != nil {
			t.Error(err)
		}
		end := time.Now()
		time.Sleep(time.Minute) //nolint:forbidigo // the bubble's clock
		if here, anywhere := b.Waited(); !here.Equal(end) || !anywhere.Equal(end) {
			t.Errorf("afterwards: %s, %s, want %s", here, anywhere, end)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestSpareKeepsRoomForReaders(t *testing.T) {
	t.Parallel()
	d := newVolatileDisk()
	opts := cacheOpts()
	opts.MaxBytes = 1000 * kib
	s, err := openOn(d, "/cache", opts)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	if err := s.Spare(899 * kib); err != nil {
		t.Errorf("below nine tenths: %v", err)
	}
	if err := s.Spare(901 * kib); err == nil {
		t.Error("beyond nine tenths: room")
	}
	d.mu.Lock()
	d.used = true
	d.mu.Unlock()
	if err := s.Spare(1); err == nil {
		t.Error("on a full disk: room")
	}
}

// TestSealAsIs keeps a device of which only what is not zeros is fetched.
func TestSealAsIs(t *testing.T) {
	t.Parallel()
	truth := newSource(3, 300*kib+17)
	clear(truth.content[64*kib : 200*kib])
	dir := t.TempDir()
	open := func(origin lazyblock.RangeReader) (*Store, *Blob) {
		t.Helper()
		s, err := Open(dir, cacheOpts())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		b, err := s.Blob(truth.desc(), origin)
		if err != nil {
			t.Fatal(err)
		}
		return s, b
	}
	s, b := open(truth)
	for _, data := range [][2]int64{{0, 64 * kib}, {200 * kib, 100*kib + 17}} {
		if err := b.Prefetch(t.Context(), data[0], data[1]); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.SealAsIs(); err != nil || !b.Sealed() {
		t.Fatalf("sealed %t, %v", b.Sealed(), err)
	}
	cached := b.Cached()
	if cached >= truth.Size() {
		t.Errorf("%d bytes are kept of %d, and %d of these are zeros", cached, truth.Size(), 136*kib)
	}
	check(t, b, truth, 0, truth.Size())
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	s, b = open(nil)
	if _, n := b.Missing(0); n != 0 || !b.Sealed() || b.Cached() != cached {
		t.Errorf("after a restart: sealed %t, %d bytes, %d missing", b.Sealed(), b.Cached(), n)
	}
	check(t, b, truth, 0, truth.Size())
	if raw, err := os.ReadFile(b.Path()); err != nil || !bytes.Equal(raw, truth.content) {
		t.Errorf("the file holds other bytes (%v)", err)
	}
	if err := b.Invalidate(t.Context(), 0, 1); err != nil || b.Sealed() {
		t.Errorf("after invalidation: sealed %t, %v", b.Sealed(), err)
	}
	if _, n := b.Missing(0); n == 0 {
		t.Error("after invalidation nothing is missing")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

package overlaybd

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/lazyblock"
)

// TestNoFlippedBitGivesWrongBytes damages every byte of a blob in turn: the
// disk must read as before or not at all.
func TestNoFlippedBitGivesWrongBytes(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(3, 3))
	const sectors = 60
	writes := []write{{512, mixture(rng, 9*sector)}, {20 * sector, mixture(rng, 12*sector)}}
	good := layerBlob(t, LayerOptions{VirtualSize: sectors * sector}, writes...)
	want := make([]byte, sectors*sector)
	for _, w := range writes {
		copy(want[w.off:], w.data)
	}
	refused := 0
	for i := range good {
		bad := slices.Clone(good)
		bad[i] ^= 1 << rng.IntN(8)
		d, err := Open(t.Context(), []lazyblock.RangeReader{bad}, "damaged")
		got := make([]byte, len(want))
		if err == nil {
			_, err = d.ReadRange(t.Context(), got, 0)
		}
		switch {
		case err == nil && !bytes.Equal(want, got):
			t.Fatalf("byte %d of %d damaged: other bytes", i, len(good))
		case err != nil && reason.Of(err) != reason.FormatCorrupt:
			t.Fatalf("byte %d of %d damaged: %v", i, len(good), err)
		case err != nil:
			refused++
		}
	}
	if refused < len(good)/4 {
		t.Errorf("only %d of %d damages were noticed", refused, len(good))
	}
}

// rotten serves damaged bytes until they are invalidated.
type rotten struct {
	bytesReader
	mu      sync.Mutex
	at      int64 // of the damaged byte, -1 once healed
	forever bool
	dropped int
}

func (r *rotten) ReadRange(ctx context.Context, p []byte, off int64) (int, error) {
	n, err := r.bytesReader.ReadRange(ctx, p, off)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.at >= off && r.at < off+int64(n) {
		p[r.at-off] ^= 0x40
	}
	return n, err
}

func (r *rotten) Invalidate(_ context.Context, off, n int64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.dropped++
	if r.at >= off && r.at < off+n && !r.forever {
		r.at = -1
	}
	return nil
}

func TestRottenCacheIsReadAgain(t *testing.T) {
	t.Parallel()
	data := randomBytes(9, 400<<10)
	blob := layerBlob(t, LayerOptions{VirtualSize: 1 << 20}, write{0, data})
	hdr, err := parseZFileHeader(blob[tarPrefix:])
	if err != nil {
		t.Fatal(err)
	}
	for name, at := range map[string]int64{
		"tar": 3, "ZFile header": tarPrefix + 60, "LSMT header": tarPrefix + zfileHeaderSize + 10, "block": 200 << 10,
		"ZFile index": tarPrefix + int64(hdr.indexOffset) + 8,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := &rotten{bytesReader: blob, at: at}
			d := openDevice(t, r)
			got := make([]byte, len(data))
			if _, err := d.ReadRange(t.Context(), got, 0); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(data, got) {
				t.Error("other bytes")
			}

			r = &rotten{bytesReader: blob, at: at, forever: true}
			d, err := Open(t.Context(), []lazyblock.RangeReader{r}, "rotten")
			if err == nil {
				_, err = d.ReadRange(t.Context(), got, 0)
			}
			if reason.Of(err) != reason.FormatCorrupt {
				t.Errorf("damage that stays: %v", err)
			}
			if r.dropped == 0 || r.dropped > 5*openTries {
				t.Errorf("invalidated %d times", r.dropped)
			}
		})
	}
}

// longIndex is goodLSMT with an index of 256 KiB: longer than the guess.
func longIndex(t *testing.T) bytesReader {
	t.Helper()
	f := goodLSMT()
	f.data = append(f.data, make([]byte, 4<<20)...)
	f.trailer.indexOffset += 4 << 20
	z := goodZFile()
	z.content, z.block = f.file(), 64
	return z.file(t)
}

// TestRottenIndexBeyondTheGuess has its damage in what was read because the
// guess of the tail was short.
func TestRottenIndexBeyondTheGuess(t *testing.T) {
	t.Parallel()
	blob := longIndex(t)
	hdr, err := parseZFileHeader(blob)
	if err != nil {
		t.Fatal(err)
	}
	if tail := guess(int64(len(blob)))[1]; int64(hdr.indexOffset)+1000 > tail.off {
		t.Fatalf("index at %d of %d is within the guess", hdr.indexOffset, len(blob))
	}
	r := &rotten{bytesReader: blob, at: int64(hdr.indexOffset) + 1000}
	d := openDevice(t, r)
	got := make([]byte, 8*sector)
	if _, err := d.ReadRange(t.Context(), got, 16*sector); err != nil || !bytes.Equal(got, goodLSMT().data) {
		t.Errorf("other bytes, %v", err)
	}
}

// failing answers from a number of reads on with an error.
type failing struct {
	bytesReader
	mu   sync.Mutex
	left int
}

var errLinkDown = errors.New("link down")

func (f *failing) ReadRange(ctx context.Context, p []byte, off int64) (int, error) {
	f.mu.Lock()
	f.left--
	left := f.left
	f.mu.Unlock()
	if left < 0 {
		return 0, errLinkDown
	}
	return f.bytesReader.ReadRange(ctx, p, off)
}

func TestErrorsOfTheBlobAreNotCorruption(t *testing.T) {
	t.Parallel()
	blob := layerBlob(t, LayerOptions{VirtualSize: 4 << 20}, write{0, randomBytes(4, 3<<20)})
	for left := range 4 {
		d, err := Open(t.Context(), []lazyblock.RangeReader{&failing{bytesReader: blob, left: left}}, "x")
		if err == nil {
			_, err = d.ReadRange(t.Context(), make([]byte, 3<<20), 0)
		}
		if !errors.Is(err, errLinkDown) || reason.Of(err) == reason.FormatCorrupt {
			t.Errorf("after %d reads: %v", left, err)
		}
	}
}

// distant answers after one round trip.
type distant struct {
	lazyblock.RangeReader
	trip time.Duration
}

func (d distant) ReadRange(ctx context.Context, p []byte, off int64) (int, error) {
	select {
	case <-time.After(d.trip):
		return d.RangeReader.ReadRange(ctx, p, off)
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// TestRoundTrips counts round trips by the clock of a bubble in which nothing
// but the link takes time.
func TestRoundTrips(t *testing.T) {
	t.Parallel()
	const trip = 50 * time.Millisecond
	rng := rand.New(rand.NewPCG(8, 8))
	small := layerBlob(t, LayerOptions{VirtualSize: 64 << 30}, write{4096, mixture(rng, 20<<10)})
	middle := layerBlob(t, LayerOptions{VirtualSize: 64 << 30}, randomWrites(rng, 20000)...)
	large := layerBlob(t, LayerOptions{VirtualSize: 64 << 30}, write{1 << 30, randomBytes(1, 24<<20)})
	big := layerBlob(t, LayerOptions{VirtualSize: 64 << 30, BlockSize: 32768, Algorithm: Zstd}, write{0, randomBytes(2, 8<<20)})
	hollow := longIndex(t)

	layers := func(n int, blob bytesReader) (all []lazyblock.RangeReader) {
		for range n {
			all = append(all, blob)
		}
		return all
	}
	for name, tc := range map[string]struct {
		layers []lazyblock.RangeReader
		open   int // round trips
	}{
		"small":                                {layers(1, small), 1},
		"twenty layers":                        {layers(20, middle), 1},
		"many layers":                          {layers(120, middle), 1},
		"large":                                {layers(1, large), 1},
		"a first block that does not shrink":   {layers(1, big), 2},
		"all kinds":                            {[]lazyblock.RangeReader{large, small, big, middle, small}, 2},
		"few bytes, long index":                {layers(3, hollow), 2},
		"stock's hello-world":                  {helloWorld(t), 2},
		"stock's base layer, found by trailer": {[]lazyblock.RangeReader{baseLayer(t)}, 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var far []lazyblock.RangeReader
				for _, l := range tc.layers {
					far = append(far, distant{l, trip})
				}
				start := time.Now()
				d, err := Open(t.Context(), far, "far")
				if err != nil {
					t.Fatal(err)
				}
				if got := int(time.Since(start) / trip); got != tc.open {
					t.Errorf("open took %d round trips, want %d", got, tc.open)
				}
				start = time.Now()
				if _, err := d.ReadRange(t.Context(), make([]byte, 128<<10), 0); err != nil {
					t.Fatal(err)
				}
				// Holes cost nothing, data of several layers no more than
				// what is fetched side by side.
				if got := int(time.Since(start) / trip); got > 2 {
					t.Errorf("a read took %d round trips", got)
				}
			})
		})
	}
}

func TestCancelledReadReturns(t *testing.T) {
	t.Parallel()
	blob := layerBlob(t, LayerOptions{VirtualSize: 4 << 20}, write{0, randomBytes(4, 3<<20)})
	synctest.Test(t, func(t *testing.T) {
		d, err := Open(t.Context(), []lazyblock.RangeReader{distant{blob, time.Second}}, "far")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		start := time.Now()
		_, err = d.ReadRange(ctx, make([]byte, 3<<20), 0)
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 100*time.Millisecond {
			t.Errorf("after %s: %v", time.Since(start), err)
		}
		if _, err := Open(ctx, []lazyblock.RangeReader{distant{blob, time.Second}}, "far"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("open: %v", err)
		}
	})
}

package formattest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/lazyblock"
)

// readSize is what the kernel reads at most at a time.
const readSize = 1 << 20

func devices(v lazyblock.Volume) []lazyblock.Device {
	return append([]lazyblock.Device{v.Primary}, v.Extra...)
}

// dump is a device read from its start to its end, up to the first error. Runs of
// zeros at the ends of sparse disks are left out.
func dump(ctx context.Context, d lazyblock.Device) ([]byte, error) {
	const most = 64 << 20 // the disk of overlaybd has 64 GiB, with the data in front
	data := make([]byte, min(d.Size(), most))
	for at := 0; at < len(data); at += readSize {
		part := data[at:min(at+readSize, len(data))]
		if err := lazyblock.ReadFull(ctx, d, part, int64(at)); err != nil {
			return data[:at], err
		}
	}
	return data, nil
}

// open opens all layers, until the test ends.
func (b *bench) open(t *testing.T, wrap func(int, []byte) lazyblock.RangeReader) lazyblock.Volume {
	t.Helper()
	v, err := b.Open(t.Context(), b.Image.whole(wrap))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeVolume(t, v) })
	return v
}

func closeVolume(t *testing.T, v lazyblock.Volume) {
	t.Helper()
	if err := v.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}

// dumpAll dumps every device.
func dumpAll(t *testing.T, v lazyblock.Volume) [][]byte {
	t.Helper()
	var dumps [][]byte
	for _, d := range devices(v) {
		data, err := dump(t.Context(), d)
		if err != nil {
			t.Fatal(err)
		}
		dumps = append(dumps, data)
	}
	return dumps
}

// intact is what the devices hold.
func (b *bench) intact(t *testing.T) [][]byte {
	t.Helper()
	b.once.Do(func() {
		v := b.open(t, inMemory)
		b.dumps = dumpAll(t, v)
	})
	if b.dumps == nil {
		t.Fatal("the form could not be read")
	}
	return b.dumps
}

func (b *bench) readsAnyShape(t *testing.T) {
	wants := b.intact(t)
	v := b.open(t, inMemory)
	var group sync.WaitGroup
	for seed := range uint64(4) {
		group.Go(func() {
			rng := rand.New(rand.NewPCG(seed, 1))
			for i, d := range devices(v) {
				for range 100 {
					off, p := somewhere(rng, wants[i])
					if n, err := d.ReadRange(t.Context(), p, off); n != len(p) || err != nil && !errors.Is(err, io.EOF) {
						t.Errorf("device %d: read %d bytes at %d: %d, %v", i, len(p), off, n, err)
					} else if !bytes.Equal(p, wants[i][off:off+int64(n)]) {
						t.Errorf("device %d: %d bytes at %d are wrong", i, n, off)
					}
				}
			}
		})
	}
	group.Wait()
	for i, d := range devices(v) {
		if n, err := d.ReadRange(t.Context(), make([]byte, 10), d.Size()-3); n != 3 || !errors.Is(err, io.EOF) {
			t.Errorf("device %d: read over its end: %d, %v, want 3 bytes and the end", i, n, err)
		}
	}
}

// somewhere is a range within data, mostly short, and room for it.
func somewhere(rng *rand.Rand, data []byte) (off int64, p []byte) {
	off = rng.Int64N(int64(len(data)))
	longest := 8192
	if rng.IntN(8) == 0 {
		longest = readSize
	}
	return off, make([]byte, min(1+rng.IntN(longest), len(data)-int(off)))
}

func (b *bench) opensTheSame(t *testing.T) {
	first := b.intact(t)
	again := b.open(t, inMemory)
	second := dumpAll(t, again)
	for i := range first {
		if !bytes.Equal(first[i], second[i]) {
			t.Errorf("device %d differs from itself", i)
		}
	}
}

func (b *bench) ends(t *testing.T) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if v, err := b.Open(ended, b.Image.whole(inMemory)); reason.Of(err) != reason.Cancelled {
		t.Errorf("open with an ended context: %v", err)
		if err == nil {
			closeVolume(t, v)
		}
	}
	v := b.open(t, inMemory)
	for range 2 { // to close twice is no error
		if err := v.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	}
	for i, d := range devices(v) {
		if _, err := d.ReadRange(t.Context(), make([]byte, 1), 0); !errors.Is(err, fs.ErrClosed) {
			t.Errorf("device %d: read after Close: %v", i, err)
		}
	}
}

package overlaybd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/referee-cri/referee/lazyblock"
)

func randomBytes(seed uint64, n int) []byte {
	rng := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), 1})
	p := make([]byte, n)
	rng.Read(p) //nolint:errcheck // never fails
	return p
}

// mixture is n bytes, some of which compress.
func mixture(rng *rand.Rand, n int) []byte {
	p := make([]byte, n)
	for at := 0; at < n; {
		part := p[at:min(n, at+1+rng.IntN(6000))]
		at += len(part)
		switch rng.IntN(3) {
		case 0:
			for i := range part {
				part[i] = byte(rng.Uint32())
			}
		case 1:
			for i := range part {
				part[i] = "the quick brown fox "[i%20]
			}
		}
	}
	return p
}

// randomWrites covers part of a disk of n sectors, no sector twice, in random order.
func randomWrites(rng *rand.Rand, n int) []write {
	var writes []write
	for at := rng.IntN(20); at < n; {
		length := 1 + rng.IntN(8)
		if rng.IntN(10) == 0 {
			length += rng.IntN(300)
		}
		length = min(length, n-at)
		writes = append(writes, write{int64(at) * sector, mixture(rng, length*sector)})
		at += length
		if rng.IntN(3) > 0 {
			at += rng.IntN(100)
		}
	}
	if rng.IntN(2) == 0 {
		rng.Shuffle(len(writes), func(i, j int) { writes[i], writes[j] = writes[j], writes[i] })
	}
	return writes
}

// zeroedLayer is a bare LSMT layer that hides ranges of sectors.
func zeroedLayer(rng *rand.Rand, n int, disk []byte) bytesReader {
	f := goodLSMT()
	f.data, f.segments = nil, nil
	for at := rng.IntN(50); at < n; at += 1 + rng.IntN(200) {
		length := min(1+rng.IntN(60), n-at)
		f.segments = append(f.segments, segment{uint64(at) | uint64(length)<<offsetBits, firstData | zeroedBit})
		clear(disk[at*sector : (at+length)*sector])
		at += length
	}
	f.trailer = lsmtHeader{
		flags: lsmtTrailer, indexOffset: lsmtHeaderSize, indexEntries: uint64(len(f.segments)), virtualSize: uint64(n * sector),
	}
	return f.file()
}

// TestStackIsTheModel writes random stacks and compares every prefix with
// plain arrays, in random reads of any alignment.
func TestStackIsTheModel(t *testing.T) {
	t.Parallel()
	const sectors = 4000
	for seed := range uint64(12) {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			t.Parallel()
			rng := rand.New(rand.NewPCG(seed, 2))
			opts := LayerOptions{
				VirtualSize: sectors * sector,
				Algorithm:   []Algorithm{0, LZ4, Zstd}[rng.IntN(3)],
				BlockSize:   []int{0, 4096, 8192, 16384, 32768}[rng.IntN(5)],
			}
			var blobs []lazyblock.RangeReader
			var models [][]byte
			disk := make([]byte, sectors*sector)
			for range 1 + rng.IntN(6) {
				if len(blobs) > 0 && rng.IntN(4) == 0 {
					blobs = append(blobs, zeroedLayer(rng, sectors, disk))
				} else {
					writes := randomWrites(rng, sectors)
					for _, w := range writes {
						copy(disk[w.off:], w.data)
					}
					blobs = append(blobs, layerBlob(t, opts, writes...))
				}
				models = append(models, slices.Clone(disk))
			}
			d := openDevice(t, blobs...)
			for i, model := range models {
				prefix, err := d.Prefix(i+1, "prefix")
				if err != nil {
					t.Fatal(err)
				}
				compareReads(t, rng, prefix, model)
			}
		})
	}
}

func compareReads(t *testing.T, rng *rand.Rand, d *Device, model []byte) {
	t.Helper()
	// Whole, sparse by Data, and at random.
	sparse := make([]byte, len(model))
	for off, n := range d.Data() {
		if _, err := d.ReadRange(t.Context(), sparse[off:off+n], off); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(model, sparse) {
		t.Error("what Data yields is not all there is")
	}
	for i := range 60 {
		off, n := int64(0), len(model)
		if i > 0 {
			off, n = rng.Int64N(int64(len(model))), rng.IntN(40000)
		}
		got := bytes.Repeat([]byte{0xAA}, n)
		m, err := d.ReadRange(t.Context(), got, off)
		want := model[off:min(int(off)+n, len(model))]
		if m != len(want) || (err != nil) != (m < n) || err != nil && !errors.Is(err, io.EOF) {
			t.Fatalf("read %d at %d: %d, %v", n, off, m, err)
		}
		if !bytes.Equal(want, got[:m]) {
			t.Fatalf("read %d at %d: other bytes", n, off)
		}
	}
}

func TestReadsAtAndBeyondTheEnd(t *testing.T) {
	t.Parallel()
	d := openDevice(t, bytesReader(goodZFile().file(t)))
	p := make([]byte, 10)
	if n, err := d.ReadRange(t.Context(), p, d.Size()); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %d, %v", n, err)
	}
	if n, err := d.ReadRange(t.Context(), p, d.Size()-4); n != 4 || !errors.Is(err, io.EOF) {
		t.Errorf("before the end: %d, %v", n, err)
	}
	if n, err := d.ReadRange(t.Context(), nil, 3); n != 0 || err != nil {
		t.Errorf("nothing: %d, %v", n, err)
	}
	if _, err := d.ReadRange(t.Context(), p, -1); err == nil {
		t.Error("negative offset reads")
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	if _, err := d.ReadRange(t.Context(), p, 0); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("after close: %v", err)
	}
}

func TestReadsSideBySide(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(5, 5))
	const sectors = 8000
	model := make([]byte, sectors*sector)
	var blobs []lazyblock.RangeReader
	for range 3 {
		writes := randomWrites(rng, sectors)
		for _, w := range writes {
			copy(model[w.off:], w.data)
		}
		blobs = append(blobs, layerBlob(t, LayerOptions{VirtualSize: sectors * sector, BlockSize: 32768}, writes...))
	}
	d := openDevice(t, blobs...)
	var wg sync.WaitGroup // waited for below
	for seed := range uint64(8) {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(seed, 6))
			for range 100 {
				off := rng.Int64N(int64(len(model)) - 9000)
				got := make([]byte, 1+rng.IntN(9000))
				if _, err := d.ReadRange(context.Background(), got, off); err != nil {
					t.Error(err)
				}
				if !bytes.Equal(got, model[off:off+int64(len(got))]) {
					t.Errorf("read %d at %d: other bytes", len(got), off)
				}
			}
		})
	}
	wg.Wait()
}

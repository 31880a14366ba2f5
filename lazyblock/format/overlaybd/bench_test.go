package overlaybd

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/referee-cri/referee/lazyblock"
)

// benchDevice is one layer of 32 MiB, half of which compresses well.
func benchDevice(b *testing.B, algo Algorithm, blockSize int) *Device {
	b.Helper()
	rng := rand.New(rand.NewPCG(1, 2))
	blob := layerBlob(b, LayerOptions{VirtualSize: 1 << 30, Algorithm: algo, BlockSize: blockSize}, write{0, mixture(rng, 32<<20)})
	return openDevice(b, blob)
}

func BenchmarkRead(b *testing.B) {
	for _, algo := range []Algorithm{LZ4, Zstd} {
		for _, blockSize := range []int{4096, 32768} {
			for _, size := range []int{4 << 10, 128 << 10, 1 << 20} {
				b.Run(fmt.Sprintf("%s/block=%dK/sequential=%dK", algo, blockSize>>10, size>>10), func(b *testing.B) {
					d, p, off := benchDevice(b, algo, blockSize), make([]byte, size), int64(0)
					b.SetBytes(int64(size))
					b.ReportAllocs()
					for b.Loop() {
						if _, err := d.ReadRange(b.Context(), p, off); err != nil {
							b.Fatal(err)
						}
						off = (off + int64(size)) % (32 << 20)
					}
				})
			}
			b.Run(fmt.Sprintf("%s/block=%dK/random=4K", algo, blockSize>>10), func(b *testing.B) {
				d, p, rng := benchDevice(b, algo, blockSize), make([]byte, 4096), rand.New(rand.NewPCG(3, 4))
				b.SetBytes(4096)
				b.ReportAllocs()
				for b.Loop() {
					if _, err := d.ReadRange(b.Context(), p, rng.Int64N(8192)*4096); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

func BenchmarkWrite(b *testing.B) {
	data := mixture(rand.New(rand.NewPCG(1, 2)), 32<<20)
	for _, algo := range []Algorithm{LZ4, Zstd} {
		b.Run(algo.String(), func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			for b.Loop() {
				w, err := NewLayerWriter(newFile(b), LayerOptions{VirtualSize: 1 << 30, Algorithm: algo})
				if err != nil {
					b.Fatal(err)
				}
				if _, err := w.WriteAt(data, 0); err != nil {
					b.Fatal(err)
				}
				if _, err := w.Finish(b.Context()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkOpen opens and merges 100 layers of 2,000 segments each.
func BenchmarkOpen(b *testing.B) {
	rng := rand.New(rand.NewPCG(1, 2))
	var layers []lazyblock.RangeReader
	for range 100 {
		f := goodLSMT()
		f.segments = f.segments[:0]
		for at, i := uint64(0), 0; i < 2000; i++ {
			at += rng.Uint64N(500)
			f.segments = append(f.segments, newSegment(at, 8, firstData))
			at += 8
		}
		f.trailer.indexEntries, f.trailer.virtualSize = 2000, 1<<30
		z := goodZFile()
		z.content = f.file()
		layers = append(layers, bytesReader(inTar(z.file(b))))
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Open(b.Context(), layers, "bench"); err != nil {
			b.Fatal(err)
		}
	}
}

package toc

import (
	"context"
	"fmt"
	"iter"
	"runtime"
	"testing"

	"github.com/referee-cri/referee/lazyblock/erofs"
)

// many yields n files in directories of fifty, as a large image has them.
func many(n int) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		at := int64(0)
		for i := range n {
			dir := fmt.Sprintf("usr/lib/python3/dist-packages/package%02d/module%04d", i/50%40, i/50)
			if i%50 == 0 && !yield(Entry{Name: dir, Inode: erofs.Inode{Mode: erofs.TypeDir | 0o755, Mtime: 1700000000}}, nil) {
				return
			}
			entry := Entry{
				Name:  fmt.Sprintf("%s/some_source_file_%02d.py", dir, i%50),
				Inode: erofs.Inode{Mode: erofs.TypeRegular | 0o644, Size: int64(i%20000 + 1), Mtime: 1700000000},
				At:    at + 512,
			}
			at = (entry.At + entry.Inode.Size + 511) &^ 511
			if !yield(entry, nil) {
				return
			}
		}
	}
}

// emptySpace is a content of which nobody reads.
type emptySpace struct{}

func (emptySpace) ReadRange(context.Context, []byte, int64) (int, error) { panic("nobody reads") }
func (emptySpace) Size() int64                                           { return 1 << 50 }

// BenchmarkOpen builds the metadata of 100,000 files. It reports what stays in
// memory while the volume is open.
func BenchmarkOpen(b *testing.B) {
	const files = 100_000
	b.ReportAllocs()
	var kept runtime.MemStats
	for b.Loop() {
		runtime.GC()
		runtime.ReadMemStats(&kept)
		before := kept.HeapAlloc
		v, err := Open(b.Context(), "bench", []Layer{{Entries: many(files), Content: emptySpace{}}}, Options{})
		if err != nil {
			b.Fatal(err)
		}
		runtime.ReadMemStats(&kept)
		peak := kept.HeapAlloc - before
		runtime.GC()
		runtime.ReadMemStats(&kept)
		b.ReportMetric(float64(kept.HeapAlloc-before)/1e6, "MB-kept")
		b.ReportMetric(float64(peak)/1e6, "MB-at-end")
		if err := v.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

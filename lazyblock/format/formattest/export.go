package formattest

import (
	"io"
	"iter"
	"os"
	"path/filepath"
	"testing"

	"github.com/referee-cri/referee/lazyblock"
)

// Sparse is a disk that knows where its data is.
type Sparse interface {
	lazyblock.Device
	Data() iter.Seq2[int64, int64]
}

// SparseFile writes a disk, which must know where its data is, to a sparse file and
// returns its path.
func SparseFile(t testing.TB, d lazyblock.Device) string {
	t.Helper()
	disk, ok := d.(Sparse)
	if !ok {
		t.Fatalf("a %T does not know where its data is", d)
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(disk.Size()); err != nil {
		t.Fatal(err)
	}
	buffer := make([]byte, 1<<20)
	for off, n := range disk.Data() {
		r := io.NewSectionReader(lazyblock.ReaderAt(t.Context(), disk), off, n)
		if _, err := io.CopyBuffer(io.NewOffsetWriter(f, off), r, buffer); err != nil {
			t.Fatal(err)
		}
	}
	return f.Name()
}

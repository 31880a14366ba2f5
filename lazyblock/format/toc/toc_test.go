package toc

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/referee-cri/referee/internal/fsimage"
	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/internal/treecmp"
	"github.com/referee-cri/referee/lazyblock/erofs"
	"github.com/referee-cri/referee/lazyblock/format/formattest"
)

func TestEveryPrefixIsTheRecordedTree(t *testing.T) {
	t.Parallel()
	tars := referenceTars(t, "tiny")
	for n := 1; n <= len(tars); n++ {
		t.Run(fmt.Sprintf("prefix %d", n), func(t *testing.T) {
			t.Parallel()
			want := formattest.TinyTrees(t)[n-1]
			image := formattest.SparseFile(t, open(t, tars[:n]...).Primary)
			fsimage.CheckEROFS(t, image)
			treecmp.ExpectAt(t, want, fsimage.MountFile(t, image), formattest.CountsWhiteout)
			treecmp.ExpectAt(t, want, fsimage.MountLoop(t, "erofs", image), formattest.CountsWhiteout)
		})
	}
}

func TestReadsOfAnyShapeAreTheSameBytes(t *testing.T) {
	t.Parallel()
	v := open(t, referenceTars(t, "tiny")...)
	want := dump(t, v.Primary, 1<<20)
	if !bytes.Equal(want, dump(t, v.Primary, 64<<20)) {
		t.Error("one long read gives other bytes than many short ones")
	}
	var group sync.WaitGroup
	for seed := range uint64(4) {
		group.Go(func() {
			rng := rand.New(rand.NewPCG(seed, 0))
			for range 100 {
				off := rng.IntN(len(want))
				p := make([]byte, min(1+rng.IntN(300_000), len(want)-off))
				if _, err := v.Primary.ReadRange(t.Context(), p, int64(off)); err != nil {
					t.Error(err)
				} else if !bytes.Equal(p, want[off:off+len(p)]) {
					t.Errorf("%d bytes at %d are wrong", len(p), off)
				}
			}
		})
	}
	group.Wait()
}

func TestTheSameLayersGiveTheSameDisk(t *testing.T) {
	t.Parallel()
	tars := referenceTars(t, "tiny")
	if !bytes.Equal(dump(t, open(t, tars...).Primary, 1<<20), dump(t, open(t, tars...).Primary, 1<<20)) {
		t.Error("two volumes of the same layers differ")
	}
}

func TestALayerMayStandTwice(t *testing.T) {
	t.Parallel()
	layer := makeTar(t, tar.Header{Name: "a", Size: 5000, Mode: 0o644}, tar.Header{Name: "b", Size: 10, Mode: 0o644})
	want, err := treecmp.FromLayers(bytes.NewReader(layer))
	if err != nil {
		t.Fatal(err)
	}
	hide := makeTar(t, tar.Header{Name: ".wh.a"})
	treecmp.ExpectAt(t, want, fsimage.MountFile(t, formattest.SparseFile(t, open(t, layer, hide, layer).Primary)))
}

func TestSmallNeighboursAreReadTogether(t *testing.T) {
	t.Parallel()
	var files []tar.Header
	for i := range 100 {
		files = append(files, tar.Header{Name: fmt.Sprintf("f%03d", i), Size: int64(1 + 40*i), Mode: 0o644})
	}
	layer, content := tarLayer(makeTar(t, files...))
	v, err := Open(t.Context(), "test", []Layer{layer}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	p := make([]byte, 100*blockSize)
	if _, err := v.Primary.ReadRange(t.Context(), p, blockSize); err != nil {
		t.Fatal(err)
	}
	if n := content.reads.Load(); n != 1 {
		t.Errorf("%d reads of the content for 100 small files, want 1", n)
	}
	for i := range files {
		block := p[i*blockSize:][:blockSize]
		size := 1 + 40*i
		want := append(bytes.Repeat([]byte{byte(i + 1)}, size), make([]byte, blockSize-size)...)
		if !bytes.Equal(block, want) {
			t.Errorf("file %d is wrong", i)
		}
	}
}

func TestContentsAreClosedWithTheVolume(t *testing.T) {
	t.Parallel()
	layer, content := tarLayer(makeTar(t, tar.Header{Name: "a", Size: 1}))
	v, err := Open(t.Context(), "test", []Layer{layer}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := v.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if n := content.closed.Load(); n != 1 {
		t.Errorf("closed %d times, want once", n)
	}
	if _, err := v.Primary.ReadRange(t.Context(), make([]byte, 1), 0); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("read after Close: %v", err)
	}
}

func TestBadLayersAreRefusedAndClosed(t *testing.T) {
	t.Parallel()
	file := func(at, size int64) Entry {
		return Entry{Name: "a", At: at, Inode: erofs.Inode{Mode: erofs.TypeRegular | 0o644, Size: size}}
	}
	for name, entry := range map[string]Entry{
		"file before the content": file(-1, 2),
		"file behind the content": file(5, 6),
		"size overflows":          file(5, 1<<63-1),
		"negative size":           file(0, -1),
		"link to nothing":         {Name: "a", Link: "b"},
		"unknown type":            {Name: "a"},
		"name with a NUL":         {Name: "a\x00b", Inode: erofs.Inode{Mode: erofs.TypeDir}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			content := &stream{Reader: bytes.NewReader(make([]byte, 10))}
			layer := Layer{Content: content, Entries: func(yield func(Entry, error) bool) { yield(entry, nil) }}
			_, err := Open(t.Context(), "test", []Layer{layer}, Options{})
			if reason.Of(err) != reason.FormatCorrupt {
				t.Errorf("error %v, want one that calls the format corrupt", err)
			}
			if content.closed.Load() != 1 {
				t.Error("the content was not closed")
			}
		})
	}
}

package ztoc_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/lazyblock/convert/imagetest"
	"github.com/referee-cri/referee/lazyblock/convert/source"
	"github.com/referee-cri/referee/lazyblock/convert/ztoc"
)

// build makes the ztoc of the first layer of an image.
func build(ctx context.Context, t *testing.T, image imagetest.Image, opts ztoc.Options) ([]byte, error) {
	t.Helper()
	store, desc := image.Store(t)
	read, err := source.Read(ctx, store, desc)
	if err != nil {
		return nil, err
	}
	if opts.SpanSize == 0 {
		opts.SpanSize = 4 << 20
	}
	if opts.MaxSize == 0 {
		opts.MaxSize = 1 << 30
	}
	opts.WorkDir, opts.Progress = t.TempDir(), func(source.Progress) {}
	encoded, err := ztoc.Layer(ctx, read, 0, opts)
	if left, dirErr := os.ReadDir(opts.WorkDir); dirErr != nil || len(left) > 0 {
		t.Errorf("files left behind: %v, %v", left, dirErr)
	}
	return encoded, err
}

// TestSameBytesAsSOCI makes the ztocs of the reference image with the options that
// SOCI's own tool made them with.
func TestSameBytesAsSOCI(t *testing.T) {
	t.Parallel()
	store, desc := imagetest.Reference(t, "tiny")
	image, err := source.Read(t.Context(), store, desc)
	if err != nil {
		t.Fatal(err)
	}
	want := []digest.Digest{
		"sha256:ff7f9dbd51f1e5d4210bccdbf1c966e3666f3a74a93fadc20374dddc4112acd0",
		"sha256:a0c5fa039abb6d34a2ce7b705ada7f4162c251fc1f067ea0a6f928eaebdbda4f",
		"sha256:b1907ff9221ff9dc8870fefe5a197f86f338a2cad35e3b2c4d318eebbf19bad7",
		"sha256:c44537a7f03f6159ae6b164efe0e6f204dc614bab2ed4edb38b80074131dc862",
	}
	for i := range image.Manifest.Layers {
		encoded, err := ztoc.Layer(t.Context(), image, i, ztoc.Options{
			WorkDir: t.TempDir(), SpanSize: 256 << 10, MaxSize: 1 << 30, Progress: func(source.Progress) {},
		})
		if err != nil {
			t.Fatal(err)
		}
		if got := digest.FromBytes(encoded); got != want[i] {
			t.Errorf("layer %d: %d bytes, %s, not %s", i, len(encoded), got, want[i])
		}
	}
}

func TestSameInputSameBytes(t *testing.T) {
	t.Parallel()
	image := imagetest.Image{Tars: [][]byte{noise(t, 3<<20)}}
	var made []digest.Digest
	for range 2 {
		encoded, err := build(t.Context(), t, image, ztoc.Options{SpanSize: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		made = append(made, digest.FromBytes(encoded))
	}
	if made[0] != made[1] {
		t.Errorf("two runs gave %v", made)
	}
}

// noise is a tar of one file that hardly compresses.
func noise(t *testing.T, size int) []byte {
	t.Helper()
	data := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(data) // never fails
	return imagetest.Tar(t, imagetest.Dir("dir"), imagetest.File("dir/noise", string(data)))
}

func TestWhatCannotBeIndexedIsSaid(t *testing.T) {
	t.Parallel()
	good := imagetest.Tar(t, imagetest.File("a", "content"))
	var global bytes.Buffer
	w := tar.NewWriter(&global)
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": "of git"}}); err != nil {
		t.Fatal(err)
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	pack := func(f func([]byte) []byte) []func([]byte) []byte { return []func([]byte) []byte{f} }
	for name, tc := range map[string]struct {
		image imagetest.Image
		want  reason.Code
		is    error
	}{
		"zstd":                {imagetest.Image{Tars: [][]byte{good}, Pack: pack(imagetest.Zstd)}, reason.Internal, ztoc.ErrNotIndexed},
		"sparse file":         {imagetest.Image{Tars: [][]byte{imagetest.SparseTar(t, 1<<20)}}, reason.Internal, ztoc.ErrNotIndexed},
		"global header":       {imagetest.Image{Tars: [][]byte{append(slices.Clone(global.Bytes()), good...)}}, reason.Internal, ztoc.ErrNotIndexed},
		"wrong diff ID":       {imagetest.Image{Tars: [][]byte{good}, DiffIDs: []digest.Digest{digest.FromString("other")}}, reason.DigestMismatch, nil},
		"no tar at all":       {imagetest.Image{Tars: [][]byte{bytes.Repeat([]byte("nonsense"), 300)}}, reason.ArtifactInvalid, tar.ErrHeader},
		"half a tar":          {imagetest.Image{Tars: [][]byte{good[:515]}}, reason.ArtifactInvalid, io.ErrUnexpectedEOF},
		"half a gzip":         {imagetest.Image{Tars: [][]byte{good}, Pack: pack(func(b []byte) []byte { packed := imagetest.Gzip(b); return packed[:len(packed)/2] })}, reason.ArtifactInvalid, io.ErrUnexpectedEOF},
		"garbage behind gzip": {imagetest.Image{Tars: [][]byte{good}, Pack: pack(func(b []byte) []byte { return append(imagetest.Gzip(b), "garbage"...) })}, reason.ArtifactInvalid, nil},
		"bomb":                {imagetest.Image{Tars: [][]byte{append(slices.Clone(good), make([]byte, 4<<20)...)}}, reason.ArtifactInvalid, source.ErrTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := build(t.Context(), t, tc.image, ztoc.Options{MaxSize: 1 << 20})
			if got := reason.Of(err); err == nil || got != tc.want || tc.is != nil && !errors.Is(err, tc.is) {
				t.Errorf("code %q, want %q: %v", got, tc.want, err)
			}
		})
	}
}

func TestCancelEndsIndexing(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	image := imagetest.Image{Tars: [][]byte{noise(t, 1<<20)}, Pack: []func([]byte) []byte{func(b []byte) []byte {
		var out bytes.Buffer
		w, _ := gzip.NewWriterLevel(&out, gzip.NoCompression)
		_, _ = w.Write(b)
		_ = w.Close()
		return out.Bytes()
	}}}
	cancel()
	if _, err := build(ctx, t, image, ztoc.Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

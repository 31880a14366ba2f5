package convert

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"

	"github.com/referee-cri/referee/lazyblock"
	"github.com/referee-cri/referee/lazyblock/convert/source"
	"github.com/referee-cri/referee/lazyblock/erofs"
	"github.com/referee-cri/referee/lazyblock/format/formattest"
	"github.com/referee-cri/referee/lazyblock/format/overlaybd"
)

// imageFrom reads and converts an image.
func imageFrom(ctx context.Context, fetcher content.Fetcher, desc ocispec.Descriptor, opts Options) (*Result, error) {
	image, err := source.Read(ctx, fetcher, desc)
	if err != nil {
		return nil, err
	}
	return Image(ctx, image, opts)
}

// trustAll is for layers that nobody claimed a digest for.
func trustAll() error { return nil }

// writeDisk puts layers on a disk in one sparse file and returns its path; with
// every set, also a copy of each prefix.
func writeDisk(t testing.TB, layers ...[]byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	d := newDisk(erofs.Limits{})
	for i, layer := range layers {
		if err := d.addLayer(t.Context(), bytes.NewReader(layer), trustAll, f, virtualSize, [16]byte{1}); err != nil {
			t.Fatalf("layer %d: %v", i, err)
		}
	}
	if err := f.Truncate(int64(d.end) << blockBits); err != nil {
		t.Fatal(err)
	}
	return path
}

// blobReader serves a converted layer from its file.
type blobReader struct {
	*os.File
	size int64
}

func (b blobReader) ReadRange(_ context.Context, p []byte, off int64) (int, error) {
	return b.ReadAt(p, off)
}
func (b blobReader) Size() int64 { return b.size }

// mergedDisk opens converted layers as one device and copies what it maps to a
// sparse file.
func mergedDisk(t testing.TB, layers []Layer) string {
	t.Helper()
	blobs := make([]lazyblock.RangeReader, len(layers))
	for i, layer := range layers {
		f, err := os.Open(layer.Path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		blobs[i] = blobReader{f, layer.Descriptor.Size}
	}
	device, err := overlaybd.Open(t.Context(), blobs, "test")
	if err != nil {
		t.Fatal(err)
	}
	defer device.Close()
	return formattest.SparseFile(t, device)
}

// gnuTar packs a directory's content with the tar of this machine.
func gnuTar(t testing.TB, dir string, options ...string) []byte {
	t.Helper()
	tool, err := exec.LookPath("tar")
	if err != nil {
		t.Skip("no tar here")
	}
	var b, complaints bytes.Buffer
	cmd := exec.CommandContext(t.Context(), tool, append(options, "-C", dir, "-cf", "-", ".")...)
	cmd.Stdout, cmd.Stderr = &b, &complaints
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v: %v: %s", cmd, err, &complaints)
	}
	return b.Bytes()
}

package estargz_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"testing"

	writer "github.com/containerd/stargz-snapshotter/estargz"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/lazyblock"
	"github.com/referee-cri/referee/lazyblock/format/estargz"
	"github.com/referee-cri/referee/lazyblock/format/formattest"
)

// written are layers of the reference image as the writers' own library makes
// eStargz of them.
func written(t testing.TB, options ...writer.Option) []formattest.Blob {
	t.Helper()
	var blobs []formattest.Blob
	for _, layer := range formattest.Reference(t, "tiny", "tiny") {
		z, err := gzip.NewReader(bytes.NewReader(layer.Data))
		if err != nil {
			t.Fatal(err)
		}
		tarball, err := io.ReadAll(z)
		if err != nil {
			t.Fatal(err)
		}
		blobs = append(blobs, write(t, tarball, options...))
	}
	return blobs
}

func write(t testing.TB, tarball []byte, options ...writer.Option) formattest.Blob {
	t.Helper()
	var missed []string // of the prioritised files; most layers have few of them
	options = append([]writer.Option{writer.WithAllowPrioritizeNotFound(&missed)}, options...)
	blob, err := writer.Build(io.NewSectionReader(bytes.NewReader(tarball), 0, int64(len(tarball))), options...)
	if err != nil {
		t.Fatal(err)
	}
	defer blob.Close()
	data, err := io.ReadAll(blob)
	if err != nil {
		t.Fatal(err)
	}
	return formattest.Blob{Data: data, Descriptor: ocispec.Descriptor{
		MediaType: ocispec.MediaTypeImageLayerGzip, Digest: digest.FromBytes(data), Size: int64(len(data)),
		Annotations: map[string]string{estargz.AnnotationTOCDigest: blob.TOCDigest().String()},
	}}
}

func TestPrioritisedFilesAreHints(t *testing.T) {
	t.Parallel()
	layers := written(t, writer.WithPrioritizedFiles([]string{"bin/busybox", "data/random.bin"}))
	v, err := estargz.Open(t.Context(), formattest.Image{Layers: layers}.Form("test"), estargz.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	if len(v.Hints) < 2 {
		t.Fatalf("hints %v, want one for each of the first two layers", v.Hints)
	}
	for i, hint := range v.Hints[:2] {
		size := int64(len(layers[i].Data))
		if hint.Blob != i || hint.Off != 0 || hint.Length < 500_000 || hint.Length >= size {
			t.Errorf("hint %v, want some of blob %d of %d bytes from its start on", hint, i, size)
		}
	}
	plain, err := estargz.Open(t.Context(), formattest.Image{Layers: written(t)}.Form("test"), estargz.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	if len(plain.Hints) != 0 {
		t.Errorf("hints %v of an image that has none", plain.Hints)
	}
}

// counting counts what is read of a blob.
type counting struct {
	lazyblock.RangeReader
	off []int64 // of each read
}

func (c *counting) ReadRange(ctx context.Context, p []byte, off int64) (int, error) {
	c.off = append(c.off, off)
	return c.RangeReader.ReadRange(ctx, p, off)
}

func TestALayerIsOpenedByReadingItsEndOnly(t *testing.T) {
	t.Parallel()
	form := formattest.Image{Layers: formattest.Reference(t, "estargz", "tiny-estargz")[1:2]}.Form("test")
	blob := &counting{RangeReader: form.Layers[0].RangeReader}
	form.Layers[0].RangeReader = blob
	v, err := estargz.Open(t.Context(), form, estargz.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	if len(blob.off) != 1 || blob.off[0] < blob.Size()-64<<10 {
		t.Errorf("reads at %v of %d bytes, want one of the last 64 KiB", blob.off, blob.Size())
	}
}

package soci

import (
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/internal/fsimage"
	"github.com/referee-cri/referee/internal/treecmp"
	"github.com/referee-cri/referee/lazyblock"
	"github.com/referee-cri/referee/lazyblock/format/formattest"
)

// Digests of the reference data: the image, and its SOCI indexes.
const (
	imageManifest = "sha256:07dd292726603f52d87bd8ab9a856f6b98b9abef5eea6be23a1b4a4757e40063"
	indexV1       = "sha256:f42a025426f424369d9769d2037a82c7e9060e66fcecfcaecb694974d5e232cd"
	indexV2       = "sha256:13f08019f2524bedc562cc5c4cf73335648c8316863f871b0f0ac6c315f292fc"
)

// blobOf is a blob of a form with these bytes.
func blobOf(data []byte, annotations map[string]string) lazyblock.FormBlob {
	return lazyblock.FormBlob{
		RangeReader: lazyblock.InMemory(data),
		Descriptor:  ocispec.Descriptor{Digest: digest.FromBytes(data), Size: int64(len(data)), Annotations: annotations},
	}
}

// open opens a form whose volume is closed when the test ends.
func open(t testing.TB, form lazyblock.Form) lazyblock.Volume {
	t.Helper()
	v, err := Open(t.Context(), form, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { v.Close() })
	return v
}

// reference is the reference image with its tables.
func reference(t testing.TB) lazyblock.Form {
	t.Helper()
	image := formattest.Image{Layers: formattest.Layers(t, imageManifest), Tables: formattest.Layers(t, indexV1)}
	return image.Form("test")
}

// expectTree mounts a volume and compares what the kernel shows.
func expectTree(t testing.TB, want treecmp.Tree, v lazyblock.Volume) {
	t.Helper()
	treecmp.ExpectAt(t, want, fsimage.MountFile(t, formattest.SparseFile(t, v.Primary)), formattest.CountsWhiteout)
}

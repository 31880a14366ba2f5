package e2e_test

import (
	"encoding/json"
	"os"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/internal/testdata"
)

// layoutImage is one image of an OCI image layout.
type layoutImage struct {
	descriptor ocispec.Descriptor
	bytes      []byte // of the manifest
	manifest   ocispec.Manifest
	config     ocispec.Image
}

func readLayout(t *testing.T, layout, tag string) layoutImage {
	t.Helper()
	image := testdata.ReadImage(t, layout, tag)
	return layoutImage{image.Descriptor, image.Bytes, image.Manifest, image.Config}
}

// putBlob stores a blob of layout in the registry.
func (b *bed) putBlob(t *testing.T, layout string, blob ocispec.Descriptor) {
	t.Helper()
	data, err := os.ReadFile(testdata.Blob(layout, blob.Digest))
	if err == nil {
		_, err = b.registry.PutBlob(blob.MediaType, data)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func mustJSON(t *testing.T, value any) []byte {
	t.Helper()
	raw, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

package e2e_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// layoutImage is one image of an OCI image layout.
type layoutImage struct {
	descriptor ocispec.Descriptor
	bytes      []byte // of the manifest
	manifest   ocispec.Manifest
	config     ocispec.Image
}

func blobPath(layout string, d digest.Digest) string {
	return filepath.Join(layout, "blobs", d.Algorithm().String(), d.Encoded())
}

func readLayout(t *testing.T, layout, tag string) layoutImage {
	t.Helper()
	var index ocispec.Index
	readJSON(t, filepath.Join(layout, "index.json"), &index)
	for _, entry := range index.Manifests {
		if entry.Annotations[ocispec.AnnotationRefName] != tag {
			continue
		}
		image := layoutImage{descriptor: entry}
		image.bytes = readJSON(t, blobPath(layout, entry.Digest), &image.manifest)
		readJSON(t, blobPath(layout, image.manifest.Config.Digest), &image.config)
		return image
	}
	t.Fatalf("layout %s has no image tagged %s", layout, tag)
	return layoutImage{}
}

func readJSON(t *testing.T, path string, into any) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(data, into)
	}
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// putBlob stores a blob of layout in the registry.
func (b *bed) putBlob(t *testing.T, layout string, blob ocispec.Descriptor) {
	t.Helper()
	data, err := os.ReadFile(blobPath(layout, blob.Digest))
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

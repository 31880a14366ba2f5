package testdata

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Image is one image, or another thing with a manifest, of an OCI layout.
type Image struct {
	Descriptor ocispec.Descriptor // as the layout's index has it
	Bytes      []byte             // of the manifest
	Manifest   ocispec.Manifest
	Config     ocispec.Image
}

// ReadImage reads what tag names in an OCI layout.
func ReadImage(t testing.TB, layout, tag string) Image {
	t.Helper()
	var index ocispec.Index
	readJSON(t, filepath.Join(layout, ocispec.ImageIndexFile), &index)
	for _, entry := range index.Manifests {
		if entry.Annotations[ocispec.AnnotationRefName] != tag {
			continue
		}
		image := Image{Descriptor: entry}
		image.Bytes = readJSON(t, Blob(layout, entry.Digest), &image.Manifest)
		readJSON(t, Blob(layout, image.Manifest.Config.Digest), &image.Config)
		return image
	}
	t.Fatalf("layout %s has no image tagged %s", layout, tag)
	return Image{}
}

// Blob is the path of a blob of an OCI layout.
func Blob(layout string, d digest.Digest) string {
	return filepath.Join(layout, ocispec.ImageBlobsDir, d.Algorithm().String(), d.Encoded())
}

func readJSON(t testing.TB, path string, into any) []byte {
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

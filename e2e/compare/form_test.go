package compare

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestLayoutManifests(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		index, bound int // manifests in index.json, and in an index that it names
		want         int
	}{
		"one image":                     {1, 0, 1},
		"an image and what is with it":  {2, 0, 2},
		"an index that binds the image": {0, 2, 2},
		"nothing":                       {0, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			index := ocispec.Index{Manifests: putManifests(t, dir, tc.index)}
			if tc.bound > 0 {
				inner := ocispec.Index{Manifests: putManifests(t, dir, tc.bound)}
				index.Manifests = []ocispec.Descriptor{put(t, dir, ocispec.MediaTypeImageIndex, inner)}
			}
			text, err := json.Marshal(index)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, ocispec.ImageIndexFile), text, 0o600); err != nil {
				t.Fatal(err)
			}
			manifests, err := layoutManifests(dir)
			if len(manifests) != tc.want || (err == nil) != (tc.want > 0) {
				t.Fatalf("layoutManifests = %d manifests, %v; want %d", len(manifests), err, tc.want)
			}
			for i, m := range manifests {
				if total(m.Layers) != int64(i+1) {
					t.Errorf("manifest %d has layers of %d bytes, want %d", i, total(m.Layers), i+1)
				}
			}
		})
	}
}

// putManifests stores manifests of one layer of 1, 2, … bytes.
func putManifests(t *testing.T, dir string, count int) []ocispec.Descriptor {
	t.Helper()
	var out []ocispec.Descriptor
	for i := range count {
		layers := []ocispec.Descriptor{{Size: int64(i + 1)}}
		out = append(out, put(t, dir, ocispec.MediaTypeImageManifest, ocispec.Manifest{Layers: layers}))
	}
	return out
}

func put(t *testing.T, dir, mediaType string, value any) ocispec.Descriptor {
	t.Helper()
	text, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	blobs := filepath.Join(dir, ocispec.ImageBlobsDir, "sha256")
	d := digest.FromBytes(text)
	if err := os.MkdirAll(blobs, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(blobs, d.Encoded()), text, 0o600); err != nil {
		t.Fatal(err)
	}
	return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(text))}
}

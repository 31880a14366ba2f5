package images_test

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/e2e/images"
)

// Every image is a valid layout: blobs have the digests and sizes they claim,
// layers the diff IDs of the config. The cache makes all but the first run quick.
func TestBuild(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("building images needs root")
	}
	for name, want := range map[string]struct {
		layers    int
		min, max  int64    // bytes of all tar streams together
		lastLayer []string // some of its entries
	}{
		"redis": {3, 100e6, 400e6, []string{
			"etc/redis/redis.conf", "etc/redis/redis.conf.linked", "etc/logrotate.d", "usr/share/.wh.man", "usr/share/doc/README",
		}},
		"redis-bigfile": {4, 4 << 30, 6e9, []string{"data/big.bin"}},
		"python":        {4, 300e6, 2e9, []string{"app/main.py"}},
		"small":         {2, 15e6, 60e6, []string{"bin/sh", "etc/passwd"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, err := images.Build(t.Context(), name)
			if err != nil {
				t.Fatal(err)
			}
			manifest, config := readImage(t, dir)
			var diffIDs []digest.Digest
			var total int64
			var entries []string
			for _, desc := range manifest.Layers {
				diffID, size, names := readLayer(t, dir, desc)
				diffIDs, total, entries = append(diffIDs, diffID), total+size, names
			}
			if diff := cmp.Diff(config.RootFS.DiffIDs, diffIDs); diff != "" {
				t.Errorf("diff IDs (-config +layers):\n%s", diff)
			}
			if len(diffIDs) != want.layers || total < want.min || total > want.max {
				t.Errorf("%d layers of %d bytes; want %d layers of %d to %d bytes", len(diffIDs), total, want.layers, want.min, want.max)
			}
			for _, entry := range want.lastLayer {
				if !slices.Contains(entries, entry) {
					t.Errorf("last layer has no %s: %q", entry, entries[:min(len(entries), 50)])
				}
			}
		})
	}
}

func TestImagesShareTheBaseLayer(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("building images needs root")
	}
	var bases []digest.Digest
	for _, name := range []string{"redis", "python"} {
		dir, err := images.Build(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		manifest, _ := readImage(t, dir)
		bases = append(bases, manifest.Layers[0].Digest)
	}
	if bases[0] != bases[1] {
		t.Errorf("first layers differ: %v", bases)
	}
}

func TestUnknownImage(t *testing.T) {
	t.Parallel()
	if dir, err := images.Build(t.Context(), "no-such-image"); err == nil {
		t.Errorf("Build = %q, want an error", dir)
	}
}

func readImage(t *testing.T, dir string) (manifest ocispec.Manifest, config ocispec.Image) {
	t.Helper()
	readBlob(t, dir, only(t, dir, images.Tag), &manifest)
	readBlob(t, dir, manifest.Config, &config)
	return manifest, config
}

// only is the one image of a layout, which must have that tag.
func only(t *testing.T, dir, tag string) ocispec.Descriptor {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, ocispec.ImageIndexFile))
	if err != nil {
		t.Fatal(err)
	}
	var index ocispec.Index
	if err := json.Unmarshal(b, &index); err != nil {
		t.Fatal(err)
	}
	if len(index.Manifests) != 1 || index.Manifests[0].Annotations[ocispec.AnnotationRefName] != tag {
		t.Fatalf("index = %s", b)
	}
	return index.Manifests[0]
}

func readBlob(t *testing.T, dir string, desc ocispec.Descriptor, into any) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "blobs", "sha256", desc.Digest.Encoded()))
	if err != nil {
		t.Fatal(err)
	}
	if got := digest.FromBytes(b); got != desc.Digest || int64(len(b)) != desc.Size {
		t.Fatalf("blob has %s, %d bytes; want %s, %d", got, len(b), desc.Digest, desc.Size)
	}
	if err := json.Unmarshal(b, into); err != nil {
		t.Fatal(err)
	}
}

func readLayer(t *testing.T, dir string, desc ocispec.Descriptor) (diffID digest.Digest, size int64, names []string) {
	t.Helper()
	f, err := os.Open(filepath.Join(dir, "blobs", "sha256", desc.Digest.Encoded()))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	compressed := desc.Digest.Verifier()
	// Not in this process: the race detector makes inflating gigabytes slow.
	gunzip := exec.CommandContext(t.Context(), "gzip", "-dc")
	gunzip.Stdin = io.TeeReader(f, compressed)
	zip, err := gunzip.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := gunzip.Start(); err != nil {
		t.Fatal(err)
	}
	digester := digest.Canonical.Digester()
	counter := &countingWriter{}
	plain := io.TeeReader(zip, io.MultiWriter(digester.Hash(), counter))
	archive := tar.NewReader(plain)
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, header.Name)
	}
	if _, err := io.Copy(io.Discard, plain); err != nil {
		t.Fatal(err)
	}
	if err := gunzip.Wait(); err != nil {
		t.Fatal(err)
	}
	if !compressed.Verified() {
		t.Errorf("layer does not have digest %s", desc.Digest)
	}
	return digester.Digest(), counter.n, names
}

type countingWriter struct{ n int64 }

func (c *countingWriter) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return len(p), nil
}

package e2e_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/e2e/node"
	"github.com/referee-cri/referee/fallback"
	"github.com/referee-cri/referee/internal/testdata"
	"github.com/referee-cri/referee/internal/treecmp"
)

// family is a lazy image and ordinary ones that share its layers.
type family struct {
	lazy    string // reference/tiny with a referrer
	layout  string
	sibling string // ordinary: tiny's first two layers and one of its own
	derived string // ordinary, in the lazy one's repository: all of tiny's layers and one of its own
}

// newFamily pushes the images. The ordinary ones have no referrer.
func newFamily(t *testing.T, b *bed) family {
	t.Helper()
	f := family{layout: filepath.Join(testdata.Dir(t, "reference"), "tiny")}
	b.pushLayout(t, f.layout)
	f.lazy = b.registry.Ref("tiny", "tiny")
	f.sibling = b.pushOnTop(t, f.layout, 2, "sibling", "sibling")
	f.derived = b.pushOnTop(t, f.layout, 4, "tiny", "derived")
	return f
}

// pushOnTop pushes an image, repository:name, made of the first n layers of tiny
// and one more that holds the file /own with the image's name in it.
func (b *bed) pushOnTop(t *testing.T, layout string, n int, repository, name string) string {
	t.Helper()
	return b.pushOwn(t, layout, n, repository, name, name)
}

// pushOwn is pushOnTop with what the file /own holds.
func (b *bed) pushOwn(t *testing.T, layout string, n int, repository, tag, own string) string {
	t.Helper()
	base := readLayout(t, layout, "tiny")
	manifest, config := base.manifest, base.config
	manifest.Layers = slices.Clone(manifest.Layers[:n])
	config.RootFS.DiffIDs = slices.Clone(config.RootFS.DiffIDs[:n])
	config.History = nil
	for _, layer := range manifest.Layers {
		b.putBlob(t, layout, layer)
	}
	plain, compressed := ownLayer(t, own)
	layer, err := b.registry.PutBlob(ocispec.MediaTypeImageLayerGzip, compressed)
	if err != nil {
		t.Fatal(err)
	}
	manifest.Layers = append(manifest.Layers, layer)
	config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digest.FromBytes(plain))
	data, err := json.Marshal(config)
	if err == nil {
		manifest.Config, err = b.registry.PutBlob(ocispec.MediaTypeImageConfig, data)
	}
	if err != nil {
		t.Fatal(err)
	}
	manifest.Versioned = specs.Versioned{SchemaVersion: 2}
	manifest.MediaType = ocispec.MediaTypeImageManifest
	if _, err := b.registry.PutJSON(repository, tag, ocispec.MediaTypeImageManifest, manifest); err != nil {
		t.Fatal(err)
	}
	return b.registry.Ref(repository, tag)
}

func ownLayer(t *testing.T, name string) (plain, compressed []byte) {
	t.Helper()
	var archive, zipped bytes.Buffer
	w := tar.NewWriter(&archive)
	z := gzip.NewWriter(&zipped)
	err := w.WriteHeader(&tar.Header{Name: "own", Mode: 0o644, Size: int64(len(name))})
	if err == nil {
		_, err = w.Write([]byte(name))
	}
	if err == nil {
		err = w.Close()
	}
	if err == nil {
		_, err = z.Write(archive.Bytes())
	}
	if err == nil {
		err = z.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return archive.Bytes(), zipped.Bytes()
}

// expectImage starts a container and compares its tree with the first n layers
// of tiny, plus the image's own layer if it has one.
func (b *bed) expectImage(t *testing.T, ref, recorded, own string, accepted ...treecmp.Ignore) {
	t.Helper()
	container := start(t, b.lazy, ref, "/bin/busybox", "sleep", "1000")
	defer removePod(t, container)
	tree := treeOf(t, b.Node, container)
	entry, exists := tree["/own"]
	if exists != (own != "") || exists && entry.SHA256 != fmt.Sprintf("%x", digest.FromString(own).Encoded()) && entry.SHA256 != digest.FromString(own).Encoded() {
		t.Errorf("%s: /own is %+v, want content %q", ref, entry, own)
	}
	delete(tree, "/own")
	expectTree(t, loadTree(t, recorded), tree, slices.Concat(madeByRuntime, unlikeOverlay, accepted)...)
}

func (b *bed) expectFamily(t *testing.T, f family, members string) {
	t.Helper()
	for member := range strings.FieldsSeq(members) {
		switch member {
		case "lazy":
			b.expectImage(t, f.lazy, "tiny.tree.jsonl", "", stockDiffers...)
		case "sibling":
			b.expectImage(t, f.sibling, "tiny.prefix2.tree.jsonl", "sibling")
		case "derived":
			// Its lower layers are read from the volume that stock's converter wrote.
			b.expectImage(t, f.derived, "tiny.tree.jsonl", "derived", stockDiffers...)
		}
	}
}

// TestSharedLayers pulls ordinary images that share layers with a lazy one,
// before it, after it, at the same time, and again after removals.
func TestSharedLayers(t *testing.T) {
	t.Parallel()
	for _, version := range versions {
		t.Run("containerd "+version, func(t *testing.T) {
			t.Parallel()
			b := newBed(t, node.Options{Containerd: version}, "")
			f := newFamily(t, b)
			remove := func(refs ...string) {
				for _, ref := range refs {
					if err := b.lazy.Remove(t.Context(), ref); err != nil {
						t.Fatal(err)
					}
				}
				b.expectNothingRemains(t)
			}
			t.Run("ordinary first", func(t *testing.T) {
				b.pull(t, f.sibling, fallback.Ordinary)
				b.pull(t, f.lazy, fallback.Lazy)
				b.expectFamily(t, f, "lazy sibling")
			})
			remove(f.lazy, f.sibling)
			t.Run("lazy first", func(t *testing.T) {
				b.pull(t, f.lazy, fallback.Lazy)
				b.pull(t, f.sibling, fallback.Ordinary)
				b.expectFamily(t, f, "sibling lazy")
			})
			remove(f.sibling, f.lazy)
			t.Run("at the same time", func(t *testing.T) {
				for range 5 {
					b.pullAtOnce(t, f.lazy, f.sibling, f.derived)
					b.expectFamily(t, f, "lazy sibling")
					for _, ref := range []string{f.lazy, f.sibling, f.derived} {
						if err := b.lazy.Remove(t.Context(), ref); err != nil {
							t.Fatal(err)
						}
					}
				}
			})
			b.expectNothingRemains(t)
			t.Run("built on top", func(t *testing.T) {
				b.pull(t, f.lazy, fallback.Lazy)
				b.registry.ResetRequests()
				b.pull(t, f.derived, fallback.Ordinary)
				b.expectNoLayerFetched(t, f.layout, "tiny")
				b.expectFamily(t, f, "derived lazy")
			})
			t.Run("its base is removed", func(t *testing.T) {
				if err := b.lazy.Remove(t.Context(), f.lazy); err != nil {
					t.Fatal(err)
				}
				b.expectFamily(t, f, "derived")
			})
			remove(f.derived)
		})
	}
}

// pullAtOnce pulls each reference three times, all together.
func (b *bed) pullAtOnce(t *testing.T, refs ...string) {
	t.Helper()
	var wg sync.WaitGroup
	for _, ref := range slices.Repeat(refs, 3) {
		wg.Go(func() {
			if _, err := b.lazy.Pull(t.Context(), ref, nil); err != nil {
				t.Errorf("pull %s with others: %v", ref, err)
			}
		})
	}
	wg.Wait()
}

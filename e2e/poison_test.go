package e2e_test

import (
	"errors"
	"io"
	"maps"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/e2e/node"
	"github.com/referee-cri/referee/fallback"
	"github.com/referee-cri/referee/internal/testdata"
)

// A poisoned chain: the config of the attacker's image claims the layers of the
// victim's image, so that both have the same chain IDs, and a form attached to it
// holds something else: the tree of reference/tiny.
//
// The victim's images are tiny's first three layers and one of their own, the
// file /own, and perhaps more on top.
type scene struct {
	*bed
	layout string
	form   ocispec.Manifest // stock's overlaybd form of tiny
}

func newScene(t *testing.T, opts node.Options, settings string) *scene {
	t.Helper()
	s := &scene{bed: newBed(t, opts, settings), layout: filepath.Join(testdata.Dir(t, "reference"), "tiny")}
	s.form = readLayout(t, s.layout, "tiny-overlaybd-lz4").manifest
	for _, blob := range append([]ocispec.Descriptor{s.form.Config}, s.form.Layers...) {
		s.putBlob(t, s.layout, blob)
	}
	return s
}

// original is an image before it is pushed, its layers being in the registry.
type original struct {
	manifest ocispec.Manifest
	config   ocispec.Image
}

// stack makes an image of tiny's first three layers and one for each of own, a
// file /own with that content.
func (s *scene) stack(t *testing.T, own ...string) original {
	t.Helper()
	const base = 3
	tiny := readLayout(t, s.layout, "tiny")
	image := original{tiny.manifest, tiny.config}
	image.manifest.Versioned = specs.Versioned{SchemaVersion: 2}
	image.manifest.MediaType = ocispec.MediaTypeImageManifest
	image.manifest.Layers = slices.Clone(tiny.manifest.Layers[:base])
	image.config.RootFS.DiffIDs = slices.Clone(tiny.config.RootFS.DiffIDs[:base])
	image.config.History = nil
	for _, layer := range image.manifest.Layers {
		s.putBlob(t, s.layout, layer)
	}
	for _, name := range own {
		plain, compressed := ownLayer(t, name)
		layer, err := s.registry.PutBlob(ocispec.MediaTypeImageLayerGzip, compressed)
		if err != nil {
			t.Fatal(err)
		}
		image.manifest.Layers = append(image.manifest.Layers, layer)
		image.config.RootFS.DiffIDs = append(image.config.RootFS.DiffIDs, digest.FromBytes(plain))
	}
	return image
}

func (o original) chains() []digest.Digest {
	return identity.ChainIDs(slices.Clone(o.config.RootFS.DiffIDs))
}

// claimed is an attacker's image with the same chains: another config, and what
// it calls its layers is up to layers.
func (o original) claimed(layers []ocispec.Descriptor) original {
	o.config.Config.Env = append(slices.Clone(o.config.Config.Env), "ATTACKER=1")
	o.manifest.Layers = layers
	return o
}

// push stores the image as repository:tag.
func (s *scene) push(t *testing.T, repository, tag string, image original) (ref string, manifest ocispec.Descriptor) {
	t.Helper()
	config, err := s.registry.PutBlob(ocispec.MediaTypeImageConfig, mustJSON(t, image.config))
	if err != nil {
		t.Fatal(err)
	}
	image.manifest.Config = config
	manifest, err = s.registry.PutJSON(repository, tag, ocispec.MediaTypeImageManifest, image.manifest)
	if err != nil {
		t.Fatal(err)
	}
	return s.registry.Ref(repository, tag), manifest
}

// poison attaches tiny's form to an image.
func (s *scene) poison(t *testing.T, repository string, subject ocispec.Descriptor) ocispec.Descriptor {
	t.Helper()
	form := s.form
	form.Annotations = maps.Clone(form.Annotations)
	form.Subject = &ocispec.Descriptor{MediaType: subject.MediaType, Digest: subject.Digest, Size: subject.Size}
	artifact, err := s.registry.PutJSON(repository, "", ocispec.MediaTypeImageManifest, form)
	if err != nil {
		t.Fatal(err)
	}
	return artifact
}

// get asks the registry for a document.
func (s *scene) get(t *testing.T, path string) []byte {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.registry.URL()+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(response.Body)
	if err := errors.Join(err, response.Body.Close()); err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("get %s: %s, %v", path, response.Status, err)
	}
	return body
}

// pushPoisoned pushes the attacker's image that claims what victim is.
func (s *scene) pushPoisoned(t *testing.T, repository string, victim original) string {
	t.Helper()
	ref, manifest := s.push(t, repository, "app", victim.claimed(victim.manifest.Layers))
	s.poison(t, repository, manifest)
	return ref
}

// expectHonest runs a container and compares its whole tree with what the
// layers say.
func (s *scene) expectHonest(t *testing.T, ref, own string) {
	t.Helper()
	s.expectImage(t, ref, "tiny.prefix3.tree.jsonl", own)
}

// expectEvil reads all that a container of the attacker's form has.
func (s *scene) expectEvil(t *testing.T, container *node.Container) {
	t.Helper()
	expectTree(t, loadTree(t, "tiny.tree.jsonl"), treeOf(t, s.Node, container), slices.Concat(madeByRuntime, unlikeOverlay, stockDiffers)...)
}

// expectMaterialised checks journal and explanation of a pull that replaced chain.
func (s *scene) expectMaterialised(t *testing.T, entry fallback.Entry, chain digest.Digest, on string) {
	t.Helper()
	if len(entry.Materialised) != 1 || entry.Materialised[0].Chain != chain || entry.Steps.Materialise == 0 {
		t.Errorf("materialised %v in %v, want %s", entry.Materialised, entry.Steps.Materialise, chain)
	}
	text := s.run(t, "explain", entry.Reference)
	for _, want := range []string{"materialised", chain.String(), on} {
		if !strings.Contains(text, want) {
			t.Errorf("explain does not say %q:\n%s", want, text)
		}
	}
}

// expectClean removes the images and everything must go.
func (s *scene) expectClean(t *testing.T, refs ...string) {
	t.Helper()
	for _, ref := range refs {
		if err := s.lazy.Remove(t.Context(), ref); err != nil {
			t.Fatal(err)
		}
	}
	s.expectNothingRemains(t)
	left, err := filepath.Glob(filepath.Join(s.Snapshots(), "snapshots", "*", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range left {
		if base := filepath.Base(name); base != "fs" && base != "work" {
			t.Errorf("left behind: %s", name)
		}
	}
}

// TestPoisonedChain pulls the attacker's image first, then the victim's: its very
// chain is poisoned, or that of its base.
func TestPoisonedChain(t *testing.T) {
	t.Parallel()
	for _, version := range versions {
		t.Run("containerd "+version, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, node.Options{Containerd: version}, "")
			for name, own := range map[string][]string{
				"its own":        {"victim"},
				"that of a base": {"base", "middle", "victim"},
			} {
				t.Run(name, func(t *testing.T) {
					base := s.stack(t, own[0])
					victim, _ := s.push(t, "victim", "app", s.stack(t, own...))
					attacker := s.pushPoisoned(t, "attacker", base)
					s.pull(t, attacker, fallback.Lazy)
					evil := start(t, s.lazy, attacker, "/bin/busybox", "sleep", "1000")

					entry := s.pull(t, victim, fallback.Ordinary)
					s.expectMaterialised(t, entry, base.chains()[3], s.registry.Host()+"/attacker")
					s.expectHonest(t, victim, "victim")
					dropCaches(t)
					s.expectEvil(t, evil) // its own doing, and no business of the victim's
					s.expectHonest(t, attacker, own[0])
					removePod(t, evil)
					s.expectClean(t, attacker, victim)
				})
			}
		})
	}
}

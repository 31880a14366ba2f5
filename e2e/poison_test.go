package e2e_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/referee-cri/referee/e2e/node"
	"github.com/referee-cri/referee/fallback"
	"github.com/referee-cri/referee/internal/regtest"
	"github.com/referee-cri/referee/internal/testdata"
	"github.com/referee-cri/referee/internal/treecmp"
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

// poison attaches tiny's form to an image of the attacker's.
func (s *scene) poison(t *testing.T, subject ocispec.Descriptor) {
	t.Helper()
	form := s.form
	form.Annotations = maps.Clone(form.Annotations)
	form.Subject = &ocispec.Descriptor{MediaType: subject.MediaType, Digest: subject.Digest, Size: subject.Size}
	if _, err := s.registry.PutJSON("attacker", "", ocispec.MediaTypeImageManifest, form); err != nil {
		t.Fatal(err)
	}
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
func (s *scene) pushPoisoned(t *testing.T, victim original) string {
	t.Helper()
	ref, manifest := s.push(t, "attacker", "app", victim.claimed(victim.manifest.Layers))
	s.poison(t, manifest)
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
					attacker := s.pushPoisoned(t, base)
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

// TestPoisonedAtTheSameTime pulls both images together, with the registry slow
// here or there, so that the poison comes first, second and in between.
func TestPoisonedAtTheSameTime(t *testing.T) {
	t.Parallel()
	s := newScene(t, node.Options{}, "")
	materialised := 0
	for round := range 8 {
		own := fmt.Sprintf("victim %d", round)
		image := s.stack(t, own)
		victim, _ := s.push(t, "victim", own[:6], image)
		attacker := s.pushPoisoned(t, image)
		slow := s.registry.Inject(regtest.Fault{
			Match: regtest.Path([]string{
				"/v2/victim/referrers/",
				"/v2/victim/blobs/" + image.manifest.Layers[round/2].Digest.String(),
			}[round%2]),
			Latency: time.Duration(round+1) * 25 * time.Millisecond,
		})
		started := time.Now()
		s.pullAtOnce(t, victim, attacker)
		slow()
		s.expectHonest(t, victim, own)
		materialised += len(s.explain(t, victim, started).Materialised)
		s.expectClean(t, attacker, victim)
	}
	if materialised == 0 {
		t.Error("the poison never came first")
	}
}

// TestBothAttachAForm pulls two images with the same chain, each with a form of
// its own.
func TestBothAttachAForm(t *testing.T) {
	t.Parallel()
	s := newScene(t, node.Options{}, "")
	t.Run("the attacker first", func(t *testing.T) {
		image := s.stack(t, "first")
		victim, _ := s.push(t, "victim", "app", image)
		s.convert(t, victim, "victim")
		attacker := s.pushPoisoned(t, image)
		s.pull(t, attacker, fallback.Lazy)
		entry := s.pull(t, victim, fallback.Ordinary)
		s.expectMaterialised(t, entry, image.chains()[3], s.registry.Host()+"/attacker")
		s.expectHonest(t, victim, "first")
		s.expectClean(t, attacker, victim)
	})
	for name, sound := range map[string]bool{"the victim first": true, "the victim first, the attacker has no such layers": false} {
		t.Run(name, func(t *testing.T) {
			image := s.stack(t, name)
			victim, _ := s.push(t, "victim", "app", image)
			s.convert(t, victim, "victim")
			layers := image.manifest.Layers
			if !sound {
				layers = slices.Clone(layers)
				layers[3] = s.stack(t, "other").manifest.Layers[3]
			}
			attacker, manifest := s.push(t, "attacker", "app", image.claimed(layers))
			s.poison(t, manifest)

			s.pull(t, victim, fallback.Lazy)
			running := start(t, s.lazy, victim, "/bin/busybox", "sleep", "1000")
			started := time.Now()
			_, err := s.lazy.Pull(t.Context(), attacker, nil)
			if sound != (err == nil) || err != nil && status.Code(errors.Unwrap(err)) != codes.Unavailable {
				t.Errorf("pull of the attacker's image: %v", err)
			}
			if err == nil { // of its own layers, nobody took the victim's form for them
				entry := s.explain(t, attacker, started)
				s.expectMaterialised(t, entry, image.chains()[3], s.registry.Host()+"/victim")
			}
			dropCaches(t)
			s.expectOwn(t, running, name)
			removePod(t, running)
			s.expectHonest(t, victim, name)
			s.expectClean(t, attacker, victim)
		})
	}
}

// TestOwnForm attaches forms that make what another repository has grafted none of
// the image's business.
func TestOwnForm(t *testing.T) {
	t.Parallel()
	s := newScene(t, node.Options{}, "")
	for name, tc := range map[string]struct {
		arrange func(t *testing.T) (first, then string)
		want    fallback.Outcome
	}{
		"of an image above": {func(t *testing.T) (string, string) {
			t.Helper()
			victim, _ := s.push(t, "victim", "app", s.stack(t, "base", "victim"))
			s.convert(t, victim, "victim")
			return s.pushPoisoned(t, s.stack(t, "base")), victim
		}, fallback.Lazy},
		"with the same blobs": {func(t *testing.T) (string, string) {
			t.Helper()
			other, _ := s.push(t, "other", "app", s.stack(t, "victim"))
			victim, _ := s.push(t, "victim", "app", s.stack(t, "victim"))
			form := s.convert(t, other, "other")
			form.Annotations = map[string]string{"test": "so that it is another manifest"}
			if _, err := s.registry.PutJSON("victim", "", ocispec.MediaTypeImageManifest, form); err != nil {
				t.Fatal(err)
			}
			return other, victim
		}, fallback.Ordinary},
	} {
		t.Run(name, func(t *testing.T) {
			first, then := tc.arrange(t)
			s.pull(t, first, fallback.Lazy)
			s.registry.ResetRequests()
			if entry := s.pull(t, then, tc.want); len(entry.Materialised) > 0 {
				t.Errorf("materialised %v", entry.Materialised)
			}
			s.expectNoLayerFetched(t, s.layout, "tiny")
			s.expectHonest(t, then, "victim")
			s.expectClean(t, first, then)
		})
	}
}

// expectOwn compares all that a container shows with its image's layers.
func (s *scene) expectOwn(t *testing.T, container *node.Container, own string) {
	t.Helper()
	tree := treeOf(t, s.Node, container)
	if got := tree["/own"]; got.SHA256 != digest.FromString(own).Encoded() {
		t.Errorf("/own is %+v, want %q", got, own)
	}
	delete(tree, "/own")
	expectTree(t, loadTree(t, "tiny.prefix3.tree.jsonl"), tree, slices.Concat(madeByRuntime, unlikeOverlay)...)
}

// TestSameFormTwice has two repositories of one registry attach the very same
// artifact to the very same image: the second confirms the first, and stays
// readable when the first has gone.
func TestSameFormTwice(t *testing.T) {
	t.Parallel()
	s := newScene(t, node.Options{}, "[reads]\ngive_up_after = \"5s\"\n")
	for _, repository := range []string{"first", "second"} {
		if _, err := s.registry.LoadLayout(repository, s.layout); err != nil {
			t.Fatal(err)
		}
	}
	first, second := s.registry.Ref("first", "tiny"), s.registry.Ref("second", "tiny")
	derived := s.pushOnTop(t, s.layout, 4, "second", "derived")
	expect := func(entry fallback.Entry) {
		t.Helper()
		s.expectNoLayerFetched(t, s.layout, "tiny")
		if len(entry.Materialised) > 0 || len(entry.Warnings) > 0 {
			t.Errorf("materialised %v, warnings %q", entry.Materialised, entry.Warnings)
		}
	}
	s.pull(t, first, fallback.Lazy)
	s.registry.ResetRequests()
	expect(s.pull(t, second, fallback.Ordinary))
	s.end(t, s.referee.Stop)
	s.begin(t)
	expect(s.pull(t, derived, fallback.Ordinary))
	container := start(t, s.lazy, second, "/bin/busybox", "sleep", "1000")
	s.registry.Inject(regtest.Fault{Match: regtest.Path("/v2/first/"), Status: http.StatusNotFound, Times: 1 << 20})
	dropCaches(t)
	s.expectEvil(t, container) // which is tiny as stock wrote it
	if n, _ := s.registry.Count(func(e regtest.Entry) bool { return strings.HasPrefix(e.Path, "/v2/first/blobs/") && e.Status == 404 }); n == 0 {
		t.Error("nothing was left to be read: this proves nothing")
	}
	s.expectImage(t, derived, "tiny.tree.jsonl", "derived", stockDiffers...)
	removePod(t, container)
	s.expectClean(t, first, second, derived)
}

// TestTrustedSignerConfirms pulls an image whose repository attaches nothing and
// whose chain another one has grafted, signed by somebody the policy trusts, or not.
func TestTrustedSignerConfirms(t *testing.T) {
	t.Parallel()
	publisher, stranger := newParty(t, "publisher"), newParty(t, "stranger")
	s := newScene(t, node.Options{}, fmt.Sprintf(`[[policy]]
match = ["**/victim"]
min_size = "0B"
require_signature = true
trust = ["ci"]
[[trust]]
name = "ci"
type = "sigstore"
keys = [%q, %q]
`, publisher.public, stranger.public))
	for name, tc := range map[string]struct {
		other   string // the repository that attaches the form; a signature is only looked for where one is required
		by      *party
		revoked bool
		want    int // layers materialised
	}{
		"signed":                      {"team/victim", &publisher, false, 0},
		"signed by nobody":            {"attacker", nil, false, 1},
		"signed, and trusted no more": {"team/victim", &stranger, true, 1},
	} {
		t.Run(name, func(t *testing.T) {
			image := s.stack(t, name)
			victim, _ := s.push(t, "victim", "app", image)
			other, _ := s.push(t, tc.other, "app", image)
			var flags []string
			if tc.by != nil {
				flags = schemes[2].by(*tc.by)
			}
			s.convert(t, other, tc.other, flags...)
			s.pull(t, other, fallback.Lazy)
			if tc.revoked {
				if err := os.WriteFile(tc.by.public, publisher.publicPEM(t), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			entry := s.pull(t, victim, fallback.Ordinary)
			if len(entry.Materialised) != tc.want {
				t.Errorf("materialised %v, want %d", entry.Materialised, tc.want)
			}
			s.expectHonest(t, victim, name)
			s.expectClean(t, other, victim)
		})
	}
}

// TestTagMoves has the tag name another image when containerd asks than when
// Referee did.
func TestTagMoves(t *testing.T) {
	t.Parallel()
	for _, version := range versions {
		t.Run("containerd "+version, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, node.Options{Containerd: version}, "")
			t.Run("to one that is poisoned", func(t *testing.T) {
				before, after := s.stack(t, "before"), s.stack(t, "after")
				victim, _ := s.push(t, "victim", "app", before)
				attacker := s.pushPoisoned(t, after)
				s.pull(t, attacker, fallback.Lazy)
				s.moveTag(t, "victim", func() { s.push(t, "victim", "app", after) })
				entry := s.pull(t, victim, fallback.Ordinary)
				s.expectMaterialised(t, entry, after.chains()[3], s.registry.Host()+"/attacker")
				s.expectHonest(t, victim, "after")
				s.expectClean(t, attacker, victim)
			})
			t.Run("while layers of the first stand in", func(t *testing.T) {
				before, after := s.stack(t, "before"), s.stack(t, "after")
				victim, _ := s.push(t, "moving", "app", before)
				s.convert(t, victim, "moving")
				s.moveTag(t, "moving", func() { s.push(t, "moving", "app", after) })
				// What stands in cannot be built on: the pull fails, and the next does not.
				if _, err := s.lazy.Pull(t.Context(), victim, nil); err == nil || !strings.Contains(err.Error(), "no such file or directory") {
					t.Fatalf("a layer was unpacked on a placeholder: %v", err)
				}
				s.pull(t, victim, fallback.Ordinary)
				s.expectHonest(t, victim, "after")
				s.expectClean(t, victim)
			})
		})
	}
}

// moveTag calls move when containerd asks for the tag app.
func (s *scene) moveTag(t *testing.T, repository string, move func()) {
	t.Helper()
	once := sync.OnceFunc(move)
	t.Cleanup(s.registry.Inject(regtest.Fault{Match: func(r *http.Request) bool {
		if r.URL.Path == "/v2/"+repository+"/manifests/app" && !strings.HasPrefix(r.UserAgent(), "referee/") {
			once()
		}
		return false
	}}))
}

// TestPoisonedDirectories has the attacker pull the victim's own layers over the
// poisoned base first. They do not name the directories that their files are in:
// containerd takes owner and mode of those from below, and keeps them.
func TestPoisonedDirectories(t *testing.T) {
	t.Parallel()
	for _, version := range versions {
		t.Run("containerd "+version, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, node.Options{Containerd: version}, "")
			base := s.stack(t, "base")
			images := []original{
				s.with(t, s.with(t, base, file("data/implied")), file("data/many/deeper")),
				s.with(t, base, file("data/sizes/other")), // another branch
			}
			kitchen, _ := s.push(t, "kitchen", "app", s.with(t, s.stack(t), openToAll("data/"), openToAll("data/many/"), openToAll("data/sizes/")))
			attacker, manifest := s.push(t, "attacker", "base", base.claimed(base.manifest.Layers))
			form := s.convert(t, kitchen, "kitchen")
			form.Subject = &manifest
			if _, err := s.registry.PutJSON("attacker", "", ocispec.MediaTypeImageManifest, form); err != nil {
				t.Fatal(err)
			}
			refs := []string{attacker}
			s.pull(t, attacker, fallback.Lazy)
			for i, image := range images {
				ref, _ := s.push(t, "attacker", fmt.Sprint(i), image.claimed(image.manifest.Layers))
				s.pull(t, ref, fallback.Ordinary)
				refs = append(refs, ref)
			}
			evil := start(t, s.lazy, refs[1], "/bin/busybox", "sleep", "1000")
			if mode := treeOf(t, s.Node, evil)["/data"].Mode; mode != 0o777 {
				t.Fatalf("/data has mode %o: the attack did not work", mode)
			}
			plain := node.Run(t, node.Options{Containerd: version})
			for i, image := range images {
				ref, _ := s.push(t, "victim", fmt.Sprint(i), image)
				entry := s.pull(t, ref, fallback.Ordinary)
				// The base once, and every layer over it that was there.
				if want := [][]digest.Digest{image.chains()[3:], image.chains()[4:]}[i]; !slices.EqualFunc(entry.Materialised, want, func(m fallback.Materialised, d digest.Digest) bool { return m.Chain == d }) {
					t.Errorf("materialised %v, want %v", entry.Materialised, want)
				}
				s.expectAsOn(t, plain, ref)
				s.registry.ResetRequests()
				if _, err := s.lazy.Pull(t.Context(), ref, nil); err != nil {
					t.Fatal(err)
				}
				if n, _ := s.registry.Count(func(e regtest.Entry) bool { return strings.Contains(e.Path, "/blobs/") }); n > 0 {
					t.Errorf("%d blobs were fetched again", n)
				}
				refs = append(refs, ref)
			}
			removePod(t, evil)
			s.expectClean(t, refs...)
		})
	}
}

// with adds a layer to an image.
func (s *scene) with(t *testing.T, image original, headers ...tar.Header) original {
	t.Helper()
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	for _, header := range headers {
		if err := w.WriteHeader(&header); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	blob, err := s.registry.PutBlob(ocispec.MediaTypeImageLayer, layer.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	image.manifest.Layers = append(slices.Clone(image.manifest.Layers), blob)
	image.config.RootFS.DiffIDs = append(slices.Clone(image.config.RootFS.DiffIDs), blob.Digest)
	return image
}

func file(name string) tar.Header { return tar.Header{Name: name, Mode: 0o644} }

func openToAll(name string) tar.Header {
	return tar.Header{Name: name, Mode: 0o777, Uid: 666, Gid: 666, Typeflag: tar.TypeDir}
}

// expectAsOn compares an image's whole tree with what a node without Referee has.
func (s *scene) expectAsOn(t *testing.T, plain *node.Node, ref string) {
	t.Helper()
	if _, err := plain.CRI().Pull(t.Context(), ref, nil); err != nil {
		t.Fatal(err)
	}
	want := start(t, plain.CRI(), ref, "/bin/busybox", "sleep", "1000")
	defer removePod(t, want)
	got := start(t, s.lazy, ref, "/bin/busybox", "sleep", "1000")
	defer removePod(t, got)
	accepted := slices.Concat(madeByRuntime, unlikeOverlay)
	for _, dir := range []string{"/data", "/data/many", "/data/sizes"} {
		for _, field := range []string{treecmp.FieldMtime, treecmp.FieldNsec} {
			accepted = append(accepted, treecmp.Ignore{Path: dir, Field: field, Why: "unpacked at another time"})
		}
	}
	expectTree(t, treeOf(t, plain, want), treeOf(t, s.Node, got), accepted...)
}

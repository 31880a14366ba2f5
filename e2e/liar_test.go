package e2e_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/e2e/node"
	"github.com/referee-cri/referee/fallback"
	"github.com/referee-cri/referee/internal/conversion"
	"github.com/referee-cri/referee/internal/regtest"
)

// liar is a registry that holds what the scene's own does, digest by digest,
// and serves other bytes for one layer of the victim's form: those of a layer
// just as long that holds another /own. A blob that is read lazily is not
// compared with its digest.
type liar struct {
	*scene
	victim original
	image  ocispec.Descriptor
	ref    string           // of the victim's image in its own registry
	form   ocispec.Manifest // that the victim attached to it
	liar   *regtest.Registry
	dir    string // of the liar's blobs
}

const honestOwn, lyingOwn = "victim", "POISON"

func newLiar(t *testing.T) *liar {
	t.Helper()
	return newLiarWith(t, "")
}

// newLiarWith is newLiar with TOML for the daemon's configuration.
func newLiarWith(t *testing.T, settings string) *liar {
	t.Helper()
	l := &liar{scene: newScene(t, node.Options{}, settings), dir: t.TempDir()}
	l.liar = regtest.New(t, regtest.Options{Dir: l.dir})
	l.victim = l.stack(t, honestOwn)
	l.ref, l.image = l.push(t, "victim", "app", l.victim)
	l.form = l.convert(t, l.ref, "victim")
	lying, _ := l.push(t, "kitchen", "app", l.stack(t, lyingOwn))
	other := l.convert(t, lying, "kitchen")

	top := len(l.form.Layers) - 1
	if l.form.Layers[top].Size != other.Layers[top].Size || l.form.Layers[top].Digest == other.Layers[top].Digest {
		t.Fatalf("layers %+v and %+v should differ and be equally long", l.form.Layers[top], other.Layers[top])
	}
	l.copy(t, l.victim.manifest.Layers...)
	l.copy(t, l.form.Layers...)
	l.copy(t, l.form.Config)
	if err := os.WriteFile(l.path(l.form.Layers[top].Digest), l.blob(t, other.Layers[top]), 0o600); err != nil {
		t.Fatal(err)
	}
	return l
}

// convert attaches a form of the image and returns its manifest.
func (s *scene) convert(t *testing.T, ref, repository string, flags ...string) ocispec.Manifest {
	t.Helper()
	out := s.command.run(t, append([]string{"convert", ref, "--algorithm", "lz4", "--output", "json"}, flags...)...)
	var made []conversion.Attached
	var form ocispec.Manifest
	err := json.Unmarshal([]byte(out), &made)
	if err == nil && len(made) == 1 {
		err = json.Unmarshal(s.get(t, "/v2/"+repository+"/manifests/"+made[0].Artifact.Digest.String()), &form)
	}
	if err != nil || len(form.Layers) == 0 {
		t.Fatalf("convert prints %q: %v", out, err)
	}
	return form
}

func (l *liar) path(d digest.Digest) string {
	return filepath.Join(l.dir, d.Algorithm().String(), d.Encoded())
}

func (l *liar) blob(t *testing.T, d ocispec.Descriptor) []byte {
	t.Helper()
	return l.get(t, "/v2/victim/blobs/"+d.Digest.String())
}

// copy gives the liar blobs of the victim's registry.
func (l *liar) copy(t *testing.T, blobs ...ocispec.Descriptor) {
	t.Helper()
	for _, blob := range blobs {
		if _, err := l.liar.PutBlob(blob.MediaType, l.blob(t, blob)); err != nil {
			t.Fatal(err)
		}
	}
}

// serve makes the liar serve an image with the victim's form attached.
func (l *liar) serve(t *testing.T, image original) string {
	t.Helper()
	config, err := l.liar.PutBlob(ocispec.MediaTypeImageConfig, mustJSON(t, image.config))
	if err != nil {
		t.Fatal(err)
	}
	image.manifest.Config = config
	subject, err := l.liar.PutJSON("attacker", "app", ocispec.MediaTypeImageManifest, image.manifest)
	if err != nil {
		t.Fatal(err)
	}
	form := l.form
	form.Subject = &subject
	if _, err := l.liar.PutJSON("attacker", "", ocispec.MediaTypeImageManifest, form); err != nil {
		t.Fatal(err)
	}
	return l.liar.Ref("attacker", "app")
}

// another is an image with as many layers as the victim's and none of its chains.
func (l *liar) another() original {
	image := l.victim
	image.config.RootFS.DiffIDs = slices.Clone(image.config.RootFS.DiffIDs)
	for i := range image.config.RootFS.DiffIDs {
		image.config.RootFS.DiffIDs[i] = digest.FromString(string(image.config.RootFS.DiffIDs[i]))
	}
	return image
}

// expectLies reads in a container what the liar serves.
func (l *liar) expectLies(t *testing.T, container *node.Container) {
	t.Helper()
	if own, err := container.Output(t.Context(), "/bin/busybox", "cat", "/own"); err != nil || own != lyingOwn {
		t.Errorf("the attacker's container reads %q (%v): the lie did not work", own, err)
	}
}

// TestLyingRegistry pulls an exact copy of the victim's image and form from a
// registry that lies, and the victim's own from one that does not.
func TestLyingRegistry(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		image func(*liar) original
		want  fallback.Outcome // of the victim's pull
	}{
		"the same image": {func(l *liar) original { return l.victim }, fallback.Ordinary},
		"another image":  {(*liar).another, fallback.Lazy},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLiar(t)
			attacker := l.serve(t, tc.image(l))
			l.pull(t, attacker, fallback.Lazy)
			evil := start(t, l.lazy, attacker, "/bin/busybox", "sleep", "1000")
			l.expectLies(t, evil)

			entry := l.pull(t, l.ref, tc.want)
			if tc.want == fallback.Ordinary {
				l.expectMaterialised(t, entry, l.victim.chains()[3], l.liar.Host()+"/attacker")
			}
			l.expectHonest(t, l.ref, honestOwn)
			dropCaches(t)
			l.expectLies(t, evil)
			removePod(t, evil)
			l.expectClean(t, attacker, l.ref)
		})
		t.Run(name+", afterwards", func(t *testing.T) {
			t.Parallel()
			l := newLiar(t)
			attacker := l.serve(t, tc.image(l))
			l.pull(t, l.ref, fallback.Lazy)
			running := start(t, l.lazy, l.ref, "/bin/busybox", "sleep", "1000")
			if _, err := l.lazy.Pull(t.Context(), attacker, nil); err != nil {
				t.Fatal(err)
			}
			l.liar.ResetRequests()
			tree := treeOf(t, l.Node, running)
			if tree["/own"].SHA256 != digest.FromString(honestOwn).Encoded() {
				t.Errorf("/own is %+v", tree["/own"])
			}
			if n, _ := l.liar.Count(func(e regtest.Entry) bool { return strings.Contains(e.Path, "/blobs/") }); n != 0 {
				t.Errorf("%d reads of the victim's container went to the liar", n)
			}
			removePod(t, running)
			l.expectHonest(t, l.ref, honestOwn)
			l.expectClean(t, attacker, l.ref)
		})
	}
}

package notation_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/internal/registry"
	"github.com/referee-cri/referee/internal/regtest"
	"github.com/referee-cri/referee/negotiate"
	"github.com/referee-cri/referee/negotiate/publish"
	"github.com/referee-cri/referee/negotiate/publish/notation"
	trust "github.com/referee-cri/referee/negotiate/trust/notation"
	"github.com/referee-cri/referee/negotiate/trust/notation/notarytest"
)

// TestPullTakesSignedFormsOnly goes the whole way: a form is published, signed, and
// found by a node that wants signatures.
func TestPullTakesSignedFormsOnly(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		sign func(t *testing.T, w *world, form ocispec.Descriptor)
		want reason.Code
	}{
		"signed": {func(t *testing.T, w *world, form ocispec.Descriptor) { w.sign(t, form, w.keys(t)) }, reason.None},
		"not signed": {
			func(*testing.T, *world, ocispec.Descriptor) {}, reason.Unsigned,
		},
		"only the image is signed": {
			func(t *testing.T, w *world, _ ocispec.Descriptor) { w.sign(t, w.subject, w.keys(t)) }, reason.Unsigned,
		},
		"signed by a stranger": {func(t *testing.T, w *world, form ocispec.Descriptor) {
			w.builder = notarytest.Root(t, "stranger").Issue(t, notarytest.Request{Name: "builder"})
			w.sign(t, form, w.keys(t))
		}, reason.SignatureUntrusted},
		"signed twice, a stranger first": {func(t *testing.T, w *world, form ocispec.Descriptor) {
			known := w.keys(t)
			w.builder = notarytest.Root(t, "stranger").Issue(t, notarytest.Request{Name: "builder"})
			w.sign(t, form, w.keys(t))
			w.sign(t, form, known)
		}, reason.None},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, regtest.Features{Referrers: true})
			form := w.publish(t)
			tc.sign(t, w, form)
			p := w.plan(t)
			if p.Lazy() {
				if tc.want != reason.None || p.Chosen.Artifact.Digest != form.Digest || p.Chosen.Signer == nil {
					t.Fatalf("chose %s on the word of %+v, want %q", p.Chosen.Artifact.Digest, p.Chosen.Signer, tc.want)
				}
				if got, want := p.Chosen.Signer.Identity, "CN=builder,O=Referee,ST=Here,C=XX (ca:prod)"; got != want {
					t.Errorf("signed by %q, want %q", got, want)
				}
				return
			}
			if p.Reason != tc.want {
				t.Errorf("%q: %s, want %q", p.Reason, p.Detail, tc.want)
			}
		})
	}
}

func (w *world) sign(t *testing.T, subject ocispec.Descriptor, opts notation.Options) {
	t.Helper()
	if _, err := notation.Sign(t.Context(), regtest.Repository(t, w.reg.Host(), "app"), subject, opts); err != nil {
		t.Fatal(err)
	}
}

// publish attaches an overlaybd form of the image.
func (w *world) publish(t *testing.T) ocispec.Descriptor {
	t.Helper()
	layer := []byte("a layer")
	path := filepath.Join(t.TempDir(), "layer")
	if err := os.WriteFile(path, layer, 0o600); err != nil {
		t.Fatal(err)
	}
	d := digest.FromBytes(layer)
	config, err := json.Marshal(ocispec.Image{
		Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"}, RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{d}},
	})
	if err != nil {
		t.Fatal(err)
	}
	form, err := publish.Push(t.Context(), regtest.Repository(t, w.reg.Host(), "app"), publish.Form{
		Source: w.subject, Config: config,
		Layers: []publish.File{{Path: path, Descriptor: ocispec.Descriptor{Digest: d, Size: int64(len(layer))}}},
	}, publish.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return form
}

// plan asks as a node does whose policy wants signatures.
func (w *world) plan(t *testing.T) *negotiate.Plan {
	t.Helper()
	v, err := trust.Load("prod", trust.Options{PolicyFile: w.store.PolicyFile, TrustStoreDir: w.store.TrustStoreDir})
	if err != nil {
		t.Fatal(err)
	}
	client := registry.New(registry.Options{HostDirs: []string{t.TempDir()}})
	t.Cleanup(func() { _ = client.Close() })
	n := negotiate.New(negotiate.Options{
		Client: client, Policy: negotiate.Uniform(negotiate.Rules{RequireSignature: true, Verifiers: []negotiate.Verifier{v}}),
	})
	t.Cleanup(n.Close)
	p, err := n.Plan(t.Context(), negotiate.Request{
		Reference: w.reg.Ref("app", "1"), Platform: &ocispec.Platform{OS: "linux", Architecture: "amd64"},
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

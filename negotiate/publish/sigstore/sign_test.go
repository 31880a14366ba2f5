package sigstore_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/registry/remote"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/internal/registry"
	"github.com/referee-cri/referee/internal/regtest"
	"github.com/referee-cri/referee/internal/testdata"
	"github.com/referee-cri/referee/negotiate"
	"github.com/referee-cri/referee/negotiate/publish"
	"github.com/referee-cri/referee/negotiate/publish/sigstore"
	trust "github.com/referee-cri/referee/negotiate/trust/sigstore"
)

var amd64 = &ocispec.Platform{OS: "linux", Architecture: "amd64"}

// pair writes a key pair into files, the private one encrypted if there is a password.
func pair(t *testing.T, key crypto.Signer, password []byte) (private, public string) {
	t.Helper()
	dir := t.TempDir()
	write := func(name string, content []byte, err error) string {
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), content, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		return filepath.Join(dir, name)
	}
	text, err := cryptoutils.MarshalPublicKeyToPEM(key.Public())
	public = write("cosign.pub", text, err)
	if password == nil {
		text, err = cryptoutils.MarshalPrivateKeyToPEM(key)
		return write("cosign.key", text, err), public
	}
	text, err = cryptoutils.MarshalPrivateKeyToEncryptedDER(key, cryptoutils.StaticPasswordFunc(password))
	return write("cosign.key", cryptoutils.PEMEncode(cryptoutils.EncryptedSigstorePrivateKeyPEMType, text), err), public
}

func newKey(t *testing.T, curve elliptic.Curve) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// pushForm pushes an image and a form of it, and returns what Push did.
func pushForm(t *testing.T, reg *regtest.Registry) ocispec.Descriptor {
	t.Helper()
	img, err := reg.PutImage("app", "1", regtest.ImageSpec{Layers: 1, Platform: amd64})
	if err != nil {
		t.Fatal(err)
	}
	layer := "a layer"
	path := filepath.Join(t.TempDir(), "layer")
	if err := os.WriteFile(path, []byte(layer), 0o600); err != nil {
		t.Fatal(err)
	}
	config, err := publish.Config(img.ConfigRaw, []digest.Digest{digest.FromString(layer)})
	if err != nil {
		t.Fatal(err)
	}
	d, err := publish.Push(t.Context(), regtest.Repository(t, reg.Host(), "app"), publish.Form{
		Source: img.Descriptor, Config: config,
		Layers: []publish.File{{Path: path, Descriptor: ocispec.Descriptor{Digest: digest.FromString(layer), Size: int64(len(layer))}}},
	}, publish.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// plan asks, as a node that accepts only what a key has signed.
func plan(t *testing.T, reg *regtest.Registry, public string) *negotiate.Plan {
	t.Helper()
	v, err := trust.Load("release", trust.Options{Keys: []string{public}})
	if err != nil {
		t.Fatal(err)
	}
	client := registry.New(registry.Options{HostDirs: []string{t.TempDir()}})
	t.Cleanup(func() { _ = client.Close() })
	n := negotiate.New(negotiate.Options{Client: client, Policy: negotiate.Uniform(negotiate.Rules{
		RequireSignature: true, Verifiers: []negotiate.Verifier{v},
	})})
	p, err := n.Plan(t.Context(), negotiate.Request{Reference: reg.Ref("app", "1"), Platform: amd64})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestSignedFormIsTaken goes the whole way: a form is pushed and signed, and a node
// that wants a signature finds, fetches and verifies it.
func TestSignedFormIsTaken(t *testing.T) {
	t.Parallel()
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	keys := map[string]crypto.Signer{
		"P-256": newKey(t, elliptic.P256()), "P-384": newKey(t, elliptic.P384()), "RSA": rsaKey, "Ed25519": edKey,
	}
	for name, tc := range map[string]struct {
		scheme    sigstore.Scheme
		referrers bool
		kind      negotiate.SignatureKind
	}{
		"bundle":                   {sigstore.SchemeBundle, true, negotiate.SignatureBundle},
		"bundle by default":        {"", true, negotiate.SignatureBundle},
		"bundle, no referrers API": {sigstore.SchemeBundle, false, negotiate.SignatureBundle},
		"tag":                      {sigstore.SchemeTag, true, negotiate.SignatureCosign},
		"tag, no referrers API":    {sigstore.SchemeTag, false, negotiate.SignatureCosign},
	} {
		for kind, key := range keys {
			t.Run(name+"/"+kind, func(t *testing.T) {
				t.Parallel()
				reg := regtest.New(t, regtest.Options{Features: &regtest.Features{Referrers: tc.referrers}})
				form := pushForm(t, reg)
				private, public := pair(t, key, nil)
				if p := plan(t, reg, public); p.Lazy() || p.Reason != reason.Unsigned {
					t.Fatalf("before signing: %s: %s, want %s", p.Reason, p.Detail, reason.Unsigned)
				}
				made, err := sigstore.Sign(t.Context(), regtest.Repository(t, reg.Host(), "app"), form, sigstore.Options{KeyFile: private, Scheme: tc.scheme})
				if err != nil {
					t.Fatal(err)
				}
				p := plan(t, reg, public)
				if !p.Lazy() {
					t.Fatalf("after signing: %s: %s", p.Reason, p.Detail)
				}
				s := p.Chosen.Signer
				if s == nil || s.Trust != "release" || s.Kind != tc.kind || s.Signature != made.Digest || s.Target.Descriptor.Digest != form.Digest {
					t.Errorf("signed by %+v, want %s of %s in %s", s, tc.kind, form.Digest, made.Digest)
				}
				_, stranger := pair(t, newKey(t, elliptic.P256()), nil)
				if p := plan(t, reg, stranger); p.Lazy() || p.Reason != reason.SignatureUntrusted {
					t.Errorf("for who trusts another key: %s: %s, want %s", p.Reason, p.Detail, reason.SignatureUntrusted)
				}
			})
		}
	}
}

func fetch(t *testing.T, repo *remote.Repository, d ocispec.Descriptor) (m ocispec.Manifest) {
	t.Helper()
	raw, err := content.FetchAll(t.Context(), repo, d)
	if err == nil {
		err = json.Unmarshal(raw, &m)
	}
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestBundleLooksLikeCosigns compares with what cosign 3.1.3 made for the reference image.
func TestBundleLooksLikeCosigns(t *testing.T) {
	t.Parallel()
	dir := testdata.Dir(t, "reference")
	var theirs ocispec.Manifest
	raw, err := os.ReadFile(filepath.Join(dir, "tiny", "blobs", "sha256", "4d8307ba7e1872f4d95d21ad80330d78426b8245361e0c5939bfd43d70c6b00d"))
	if err == nil {
		err = json.Unmarshal(raw, &theirs)
	}
	if err != nil {
		t.Fatal(err)
	}
	created, err := time.Parse(time.RFC3339, theirs.Annotations[ocispec.AnnotationCreated])
	if err != nil {
		t.Fatal(err)
	}
	reg := regtest.New(t, regtest.Options{})
	if _, err := reg.LoadLayout("app", filepath.Join(dir, "tiny")); err != nil {
		t.Fatal(err)
	}
	private, _ := pair(t, newKey(t, elliptic.P256()), nil)
	d, err := sigstore.Sign(t.Context(), regtest.Repository(t, reg.Host(), "app"), *theirs.Subject, sigstore.Options{KeyFile: private, Created: created})
	if err != nil {
		t.Fatal(err)
	}
	ours := fetch(t, regtest.Repository(t, reg.Host(), "app"), d)
	theirs.Config.ArtifactType = "" // there the type stands twice
	for _, m := range []*ocispec.Manifest{&ours, &theirs} {
		m.Layers[0].Digest, m.Layers[0].Size = "", 0 // another key, another signature
	}
	if diff := cmp.Diff(theirs, ours); diff != "" {
		t.Errorf("manifest (-cosign's +ours):\n%s", diff)
	}
}

func TestTagKeepsSignatures(t *testing.T) {
	t.Parallel()
	reg := regtest.New(t, regtest.Options{})
	form := pushForm(t, reg)
	first, firstPublic := pair(t, newKey(t, elliptic.P256()), nil)
	second, secondPublic := pair(t, newKey(t, elliptic.P256()), nil)
	var last ocispec.Descriptor
	for i, key := range []string{first, second, first, second} {
		d, err := sigstore.Sign(t.Context(), regtest.Repository(t, reg.Host(), "app"), form, sigstore.Options{KeyFile: key, Scheme: sigstore.SchemeTag})
		if err != nil {
			t.Fatal(err)
		}
		if i > 1 && d.Digest != last.Digest {
			t.Errorf("signing again made %s of %s", d.Digest, last.Digest)
		}
		last = d
	}
	m := fetch(t, regtest.Repository(t, reg.Host(), "app"), last)
	raw, err := content.FetchAll(t.Context(), regtest.Repository(t, reg.Host(), "app").Blobs(), m.Config)
	if err != nil {
		t.Fatal(err)
	}
	var config ocispec.Image
	if err := json.Unmarshal(raw, &config); err != nil {
		t.Fatal(err)
	}
	if len(m.Layers) != 2 || len(config.RootFS.DiffIDs) != 2 {
		t.Errorf("%d layers and %d diff IDs, want two signatures", len(m.Layers), len(config.RootFS.DiffIDs))
	}
	for _, public := range []string{firstPublic, secondPublic} {
		if p := plan(t, reg, public); !p.Lazy() {
			t.Errorf("%s: %s", p.Reason, p.Detail)
		}
	}
}

func TestTagOfSomebodyElse(t *testing.T) {
	t.Parallel()
	reg := regtest.New(t, regtest.Options{})
	form := pushForm(t, reg)
	tag := strings.Replace(form.Digest.String(), ":", "-", 1) + ".sig"
	img, err := reg.PutImage("app", tag, regtest.ImageSpec{Layers: 1, Platform: amd64})
	if err != nil {
		t.Fatal(err)
	}
	private, _ := pair(t, newKey(t, elliptic.P256()), nil)
	_, err = sigstore.Sign(t.Context(), regtest.Repository(t, reg.Host(), "app"), form, sigstore.Options{KeyFile: private, Scheme: sigstore.SchemeTag})
	if err == nil || !strings.Contains(err.Error(), "not signatures") {
		t.Errorf("Sign: %v, want it to leave somebody's image alone", err)
	}
	if d, err := regtest.Repository(t, reg.Host(), "app").Resolve(t.Context(), tag); err != nil || d.Digest != img.Descriptor.Digest {
		t.Errorf("the tag holds %s (%v), want %s as before", d.Digest, err, img.Descriptor.Digest)
	}
}

func TestSignRefuses(t *testing.T) {
	t.Parallel()
	reg := regtest.New(t, regtest.Options{})
	form := pushForm(t, reg)
	private, public := pair(t, newKey(t, elliptic.P256()), nil)
	locked, _ := pair(t, newKey(t, elliptic.P256()), []byte("secret"))
	absent, resized := form, form
	absent.Digest = digest.FromString("absent")
	resized.Size++
	for name, tc := range map[string]struct {
		subject ocispec.Descriptor
		opts    sigstore.Options
		says    string
	}{
		"another scheme":            {form, sigstore.Options{KeyFile: private, Scheme: "notary"}, "scheme"},
		"no key":                    {form, sigstore.Options{KeyFile: private + ".absent"}, private + ".absent"},
		"a public key":              {form, sigstore.Options{KeyFile: public}, "read key"},
		"a wrong password":          {form, sigstore.Options{KeyFile: locked, Password: []byte("guess")}, "read key"},
		"what is not there":         {absent, sigstore.Options{KeyFile: private}, "find what to sign"},
		"what is there differently": {resized, sigstore.Options{KeyFile: private}, "find what to sign"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := sigstore.Sign(t.Context(), regtest.Repository(t, reg.Host(), "app"), tc.subject, tc.opts)
			if err == nil || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("Sign: %v, want it to say %q", err, tc.says)
			}
			if err != nil && strings.Contains(err.Error(), "guess") {
				t.Errorf("Sign: %v tells the password", err)
			}
		})
	}
}

func TestPassword(t *testing.T) {
	reg := regtest.New(t, regtest.Options{})
	form := pushForm(t, reg)
	private, public := pair(t, newKey(t, elliptic.P256()), []byte("secret"))
	sign := func(password []byte) error {
		_, err := sigstore.Sign(t.Context(), regtest.Repository(t, reg.Host(), "app"), form, sigstore.Options{KeyFile: private, Password: password})
		return err
	}
	t.Setenv("COSIGN_PASSWORD", "") // so that it is as before in the end
	if err := os.Unsetenv("COSIGN_PASSWORD"); err != nil {
		t.Fatal(err)
	}
	if err := sign(nil); err == nil || !strings.Contains(err.Error(), "COSIGN_PASSWORD") {
		t.Errorf("no password: %v, want it to name the variable", err)
	}
	if err := sign([]byte("secret")); err != nil {
		t.Errorf("password given: %v", err)
	}
	t.Setenv("COSIGN_PASSWORD", "secret")
	if err := sign(nil); err != nil {
		t.Errorf("password in the environment: %v", err)
	}
	if p := plan(t, reg, public); !p.Lazy() {
		t.Errorf("%s: %s", p.Reason, p.Detail)
	}
}

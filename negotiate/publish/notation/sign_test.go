package notation_test

import (
	"encoding/json"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	notationgo "github.com/notaryproject/notation-go"
	"github.com/notaryproject/notation-go/dir"
	"github.com/notaryproject/notation-go/registry"
	"github.com/notaryproject/notation-go/signer"
	"github.com/notaryproject/notation-go/verifier"
	"github.com/notaryproject/notation-go/verifier/trustpolicy"
	"github.com/notaryproject/notation-go/verifier/truststore"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"

	"github.com/referee-cri/referee/internal/regtest"
	"github.com/referee-cri/referee/negotiate"
	"github.com/referee-cri/referee/negotiate/publish/notation"
	trust "github.com/referee-cri/referee/negotiate/trust/notation"
	"github.com/referee-cri/referee/negotiate/trust/notation/notarytest"
)

// world is a registry with an image, and an authority with a signer.
type world struct {
	reg     *regtest.Registry
	subject ocispec.Descriptor
	root    *notarytest.Holder
	builder *notarytest.Holder
	store   *notarytest.Store
}

func newWorld(t *testing.T, features regtest.Features, stores ...string) *world {
	t.Helper()
	w := &world{reg: regtest.New(t, regtest.Options{Features: &features}), root: notarytest.Root(t, "root")}
	img, err := w.reg.PutImage("app", "1", regtest.ImageSpec{Layers: 1})
	if err != nil {
		t.Fatal(err)
	}
	w.subject = img.Descriptor
	w.builder = w.root.Issue(t, notarytest.Request{Name: "builder"})
	w.store = notarytest.NewStore(t, notarytest.Statement(append(stores, "ca:prod")...))
	w.store.Trust(t, "ca", "prod", w.root.Certificate())
	return w
}

func (w *world) keys(t *testing.T) notation.Options {
	t.Helper()
	keyFile, certFile := w.builder.Files(t)
	return notation.Options{KeyFile: keyFile, CertFile: certFile}
}

// found returns the only signature that notation-go finds on the subject.
func (w *world) found(t *testing.T) negotiate.Signature {
	t.Helper()
	var signatures []negotiate.Signature
	repo := registry.NewRepository(regtest.Repository(t, w.reg.Host(), "app"))
	err := repo.ListSignatures(t.Context(), w.subject, func(page []ocispec.Descriptor) error {
		for _, manifest := range page {
			blob, d, err := repo.FetchSignatureBlob(t.Context(), manifest)
			if err != nil {
				return err
			}
			signatures = append(signatures, negotiate.Signature{
				Kind: negotiate.SignatureNotation, Artifact: manifest, MediaType: d.MediaType, Content: blob,
			})
		}
		return nil
	})
	if err != nil || len(signatures) != 1 {
		t.Fatalf("found %d signatures, %v", len(signatures), err)
	}
	return signatures[0]
}

// verify has our own verifier look at what is found.
func (w *world) verify(t *testing.T) {
	t.Helper()
	v, err := trust.Load("prod", trust.Options{PolicyFile: w.store.PolicyFile, TrustStoreDir: w.store.TrustStoreDir})
	if err != nil {
		t.Fatal(err)
	}
	target := negotiate.Target{Repository: w.reg.Host() + "/app", Descriptor: w.subject}
	got, err := v.Verify(t.Context(), target, w.found(t))
	if err != nil {
		t.Fatal(err)
	}
	if want := "CN=builder,O=Referee,ST=Here,C=XX (ca:prod)"; got.Identity != want {
		t.Errorf("signed by %q, want %q", got.Identity, want)
	}
}

// verifyAsNotation verifies in the way of the notation command.
func (w *world) verifyAsNotation(t *testing.T) {
	t.Helper()
	doc := &trustpolicy.Document{Version: "1.0", TrustPolicies: []trustpolicy.TrustPolicy{notarytest.Statement("ca:prod")}}
	v, err := verifier.New(doc, truststore.NewX509TrustStore(dir.NewSysFS(w.store.Dir)), nil)
	if err != nil {
		t.Fatal(err)
	}
	_, outcomes, err := notationgo.Verify(t.Context(), v, registry.NewRepository(regtest.Repository(t, w.reg.Host(), "app")), notationgo.VerifyOptions{
		ArtifactReference: w.reg.Host() + "/app@" + w.subject.Digest.String(), MaxSignatureAttempts: 5,
	})
	if err != nil || len(outcomes) != 1 {
		t.Errorf("notation says %v about %d signatures", err, len(outcomes))
	}
}

// TestOthersVerifyWhatWeSign has two verifiers look at what is signed in every way.
func TestOthersVerifyWhatWeSign(t *testing.T) {
	t.Parallel()
	for place, features := range map[string]regtest.Features{"referrers API": {Referrers: true}, "fallback tag": {}} {
		for envelope, mediaType := range map[string]string{"": notarytest.JWS, notation.EnvelopeJWS: notarytest.JWS, notation.EnvelopeCOSE: notarytest.COSE} {
			t.Run(place+", "+envelope, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, features)
				opts := w.keys(t)
				opts.Envelope, opts.Expiry = envelope, time.Hour
				w.signAndVerify(t, opts, mediaType)
			})
		}
	}
}

func TestOthersVerifyWhatPluginsSign(t *testing.T) {
	t.Parallel()
	for envelope, mediaType := range map[string]string{notation.EnvelopeJWS: notarytest.JWS, notation.EnvelopeCOSE: notarytest.COSE} {
		t.Run(envelope, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, regtest.Features{Referrers: true})
			w.signAndVerify(t, notation.Options{Plugin: installPlugin(t, w.builder), Envelope: envelope}, mediaType)
		})
	}
}

func (w *world) signAndVerify(t *testing.T, opts notation.Options, mediaType string) {
	t.Helper()
	pushed, err := notation.Sign(t.Context(), regtest.Repository(t, w.reg.Host(), "app"), w.subject, opts)
	if err != nil {
		t.Fatal(err)
	}
	found := w.found(t)
	if found.Artifact.Digest != pushed.Digest || found.MediaType != mediaType {
		t.Errorf("found %s (%s), pushed %s", found.Artifact.Digest, found.MediaType, pushed.Digest)
	}
	w.verify(t)
	w.verifyAsNotation(t)
}

// TestWeVerifyWhatOthersSign has notation-go sign and push.
func TestWeVerifyWhatOthersSign(t *testing.T) {
	t.Parallel()
	for place, features := range map[string]regtest.Features{"referrers API": {Referrers: true}, "fallback tag": {}} {
		for _, mediaType := range []string{notarytest.JWS, notarytest.COSE} {
			t.Run(place+", "+mediaType, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, features)
				opts := w.keys(t)
				s, err := signer.NewGenericSignerFromFiles(opts.KeyFile, opts.CertFile)
				if err != nil {
					t.Fatal(err)
				}
				_, err = notationgo.Sign(t.Context(), s, registry.NewRepository(regtest.Repository(t, w.reg.Host(), "app")), notationgo.SignOptions{
					SignerSignOptions: notationgo.SignerSignOptions{SignatureMediaType: mediaType}, ArtifactReference: w.subject.Digest.String(),
					UserMetadata: map[string]string{"build": "4711"},
				})
				if err != nil {
					t.Fatal(err)
				}
				w.verify(t)
			})
		}
	}
}

func TestManifestIsThatOfTheSpecification(t *testing.T) {
	t.Parallel()
	w := newWorld(t, regtest.Features{Referrers: true})
	pushed, err := notation.Sign(t.Context(), regtest.Repository(t, w.reg.Host(), "app"), w.subject, w.keys(t))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := content.FetchAll(t.Context(), regtest.Repository(t, w.reg.Host(), "app"), pushed)
	if err != nil {
		t.Fatal(err)
	}
	var manifest ocispec.Manifest
	if err := json.Unmarshal(raw, &manifest); err != nil {
		t.Fatal(err)
	}
	if manifest.ArtifactType != "" || manifest.Config.MediaType != "application/vnd.cncf.notary.signature" || len(manifest.Layers) != 1 {
		t.Errorf("pushed %s", raw)
	}
	if diff := cmp.Diff(&ocispec.Descriptor{MediaType: w.subject.MediaType, Digest: w.subject.Digest, Size: w.subject.Size}, manifest.Subject); diff != "" {
		t.Errorf("subject (-want +got):\n%s", diff)
	}
	var thumbprints []string
	if err := json.Unmarshal([]byte(manifest.Annotations["io.cncf.notary.x509chain.thumbprint#S256"]), &thumbprints); err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, c := range w.builder.Chain {
		want = append(want, digest.FromBytes(c.Raw).Encoded())
	}
	if !slices.Equal(thumbprints, want) {
		t.Errorf("thumbprints %v, want %v", thumbprints, want)
	}
	created, err := time.Parse(time.RFC3339, manifest.Annotations[ocispec.AnnotationCreated])
	if err != nil || time.Since(created).Abs() > time.Minute {
		t.Errorf("created %s, %v", created, err)
	}
}

// TestCountersignedSignature lets the timestamp be required.
func TestCountersignedSignature(t *testing.T) {
	t.Parallel()
	for _, envelope := range []string{notation.EnvelopeJWS, notation.EnvelopeCOSE} {
		t.Run(envelope, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, regtest.Features{Referrers: true}, "tsa:time")
			root := notarytest.Root(t, "time")
			w.store.Trust(t, "tsa", "time", root.Certificate())
			tsa := notarytest.NewTSA(t, root.Issue(t, notarytest.Request{Name: "stamper", Timestamps: true}), time.Now)
			opts := w.keys(t)
			opts.Envelope, opts.TSA = envelope, &notation.TSA{URL: tsa.URL, RootsFile: filepath.Join(t.TempDir(), "roots.pem")}
			notarytest.Write(t, opts.TSA.RootsFile, notarytest.PEM(root.Certificate()))
			if _, err := notation.Sign(t.Context(), regtest.Repository(t, w.reg.Host(), "app"), w.subject, opts); err != nil {
				t.Fatal(err)
			}
			w.verify(t)
		})
	}
}

func TestSignRefusesBeforeItPushes(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		change func(t *testing.T, w *world, o *notation.Options)
		want   string
	}{
		"no key":            {func(_ *testing.T, _ *world, o *notation.Options) { *o = notation.Options{} }, "key file"},
		"no certificate":    {func(_ *testing.T, _ *world, o *notation.Options) { o.CertFile = "" }, "certificate file"},
		"key file missing":  {func(_ *testing.T, _ *world, o *notation.Options) { o.KeyFile = "/nowhere/key.pem" }, "/nowhere/key.pem"},
		"key of another":    {func(t *testing.T, w *world, o *notation.Options) { o.KeyFile, _ = w.root.Files(t) }, "read key"},
		"key file and more": {func(t *testing.T, w *world, o *notation.Options) { o.Plugin = installPlugin(t, w.builder) }, "want one of them"},
		"unknown envelope":  {func(_ *testing.T, _ *world, o *notation.Options) { o.Envelope = "pgp" }, `envelope "pgp"`},
		"expired at once":   {func(_ *testing.T, _ *world, o *notation.Options) { o.Expiry = -time.Hour }, "expiry"},
		"half seconds":      {func(_ *testing.T, _ *world, o *notation.Options) { o.Expiry = 1500 * time.Millisecond }, "seconds"},
		"subject not there": {func(_ *testing.T, w *world, _ *notation.Options) { w.subject.Digest = digest.FromString("gone") }, "ask the registry"},
		"subject of a size": {func(_ *testing.T, w *world, _ *notation.Options) { w.subject.Size++ }, "the registry serves"},
		"subject of a type": {func(_ *testing.T, w *world, _ *notation.Options) { w.subject.MediaType = ocispec.MediaTypeImageIndex }, "the registry serves"},
		"plugin missing": {func(t *testing.T, _ *world, o *notation.Options) {
			*o = notation.Options{Plugin: &notation.Plugin{Name: "none", Dir: t.TempDir(), KeyID: "k"}}
		}, `plugin "none"`},
		"plugin without key": {func(t *testing.T, w *world, o *notation.Options) {
			*o = notation.Options{Plugin: installPlugin(t, w.builder)}
			o.Plugin.KeyID = ""
		}, "keyID"},
		"plugin refuses": {func(t *testing.T, w *world, o *notation.Options) {
			*o = notation.Options{Plugin: installPlugin(t, w.builder)}
			o.Plugin.KeyID = "lost"
		}, `there is no key "lost"`},
		"no roots for TSA": {func(_ *testing.T, _ *world, o *notation.Options) {
			o.TSA = &notation.TSA{URL: "http://127.0.0.1:1", RootsFile: "/nowhere"}
		}, "roots"},
		"TSA silent": {func(t *testing.T, w *world, o *notation.Options) {
			o.TSA = &notation.TSA{URL: "http://127.0.0.1:1", RootsFile: filepath.Join(t.TempDir(), "roots.pem")}
			notarytest.Write(t, o.TSA.RootsFile, notarytest.PEM(w.root.Certificate()))
		}, "127.0.0.1:1"},
		"certificate expired": {func(t *testing.T, w *world, o *notation.Options) {
			w.builder = w.root.Issue(t, notarytest.Request{Name: "late", From: time.Now().Add(-2 * time.Hour), To: time.Now().Add(-time.Hour)})
			*o = w.keys(t)
		}, "invalid at signing time"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, regtest.Features{Referrers: true})
			opts := w.keys(t)
			tc.change(t, w, &opts)
			_, err := notation.Sign(t.Context(), regtest.Repository(t, w.reg.Host(), "app"), w.subject, opts)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want one about %q", err, tc.want)
			}
			if n, _ := w.reg.Count(func(e regtest.Entry) bool { return e.Method == http.MethodPost || e.Method == http.MethodPut }); n != 0 {
				t.Errorf("%d requests pushed something", n)
			}
		})
	}
}

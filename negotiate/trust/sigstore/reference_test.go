package sigstore_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/internal/testdata"
	"github.com/referee-cri/referee/negotiate"
	"github.com/referee-cri/referee/negotiate/trust/sigstore"
)

// The manifests of the reference image, of another form of it, and of the two
// signatures that cosign 3.1.3 made of the first (the set's README).
const (
	tiny        digest.Digest = "sha256:07dd292726603f52d87bd8ab9a856f6b98b9abef5eea6be23a1b4a4757e40063"
	tinyForm    digest.Digest = "sha256:7b817d6f398d8a2d28585846bad62e5671891c38e2bcc9ac965312fb17f34b69"
	tinyTagged  digest.Digest = "sha256:1e2b018c5713528bc5f8c7dc302df0d2f20641d0ee8427a8a09511c3d3bdc295"
	tinyBundled digest.Digest = "sha256:4d8307ba7e1872f4d95d21ad80330d78426b8245361e0c5939bfd43d70c6b00d"
)

// referenceSignature reads a signature out of the reference layout.
func referenceSignature(t *testing.T, dir string, d digest.Digest, kind negotiate.SignatureKind) negotiate.Signature {
	t.Helper()
	blob := func(d digest.Digest) []byte {
		content, err := os.ReadFile(filepath.Join(dir, "tiny", "blobs", "sha256", d.Encoded()))
		if err != nil {
			t.Fatal(err)
		}
		return content
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(blob(d), &m); err != nil {
		t.Fatal(err)
	}
	layer := m.Layers[0]
	return negotiate.Signature{
		Kind: kind, Artifact: ocispec.Descriptor{Digest: d},
		MediaType: layer.MediaType, Content: blob(layer.Digest), Annotations: layer.Annotations,
	}
}

func TestSignaturesOfCosign(t *testing.T) {
	t.Parallel()
	dir := testdata.Dir(t, "reference")
	tagged := referenceSignature(t, dir, tinyTagged, negotiate.SignatureCosign)
	bundled := referenceSignature(t, dir, tinyBundled, negotiate.SignatureBundle)
	public := filepath.Join(dir, "cosign.pub")
	other := writeKey(t, newECDSA(t).Public())
	const identity = "key sha256:2515882c3696c4c9e79a0fa1745b3d5d970c1348ba904c07837f9183cfacbc7f"

	for name, tc := range map[string]struct {
		keys      []string
		signature negotiate.Signature
		digest    digest.Digest
		want      reason.Code
	}{
		"a tag signature verifies":                  {[]string{public}, tagged, tiny, reason.None},
		"a bundle verifies":                         {[]string{public}, bundled, tiny, reason.None},
		"one of several keys suffices for a tag":    {[]string{other, public}, tagged, tiny, reason.None},
		"one of several keys suffices for a bundle": {[]string{other, public}, bundled, tiny, reason.None},
		"a tag signature is not of another digest":  {[]string{public}, tagged, tinyForm, reason.SignatureInvalid},
		"a bundle is not of another digest":         {[]string{public}, bundled, tinyForm, reason.SignatureInvalid},
		"another key did not sign the tag":          {[]string{other}, tagged, tiny, reason.SignatureUntrusted},
		"another key did not sign the bundle":       {[]string{other}, bundled, tiny, reason.SignatureUntrusted},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := load(t, sigstore.Options{Keys: tc.keys})
			signer, err := v.Verify(t.Context(), target(tc.digest), tc.signature)
			if got := reason.Of(err); got != tc.want {
				t.Fatalf("Verify: %v (%s), want %q", err, got, tc.want)
			}
			if err != nil {
				return
			}
			want := negotiate.Signer{
				Trust: "release", Kind: tc.signature.Kind, Identity: identity,
				Target: target(tc.digest), Signature: tc.signature.Artifact.Digest,
			}
			if diff := diff(want, signer); diff != "" {
				t.Errorf("signer (-want +got):\n%s", diff)
			}
		})
	}
}

func TestReferenceOfSimpleSigning(t *testing.T) {
	t.Parallel()
	dir := testdata.Dir(t, "reference")
	tagged := referenceSignature(t, dir, tinyTagged, negotiate.SignatureCosign) // of registry.example/tiny:tiny
	opts := sigstore.Options{Keys: []string{filepath.Join(dir, "cosign.pub")}}
	moved := target(tiny)
	moved.Repository = "mirror.example/tiny"

	if _, err := load(t, opts).Verify(t.Context(), moved, tagged); err != nil {
		t.Errorf("a copied image, nobody asks for the reference: %v", err)
	}
	opts.CheckReference = true
	if _, err := load(t, opts).Verify(t.Context(), target(tiny), tagged); err != nil {
		t.Errorf("an image at its place: %v", err)
	}
	_, err := load(t, opts).Verify(t.Context(), moved, tagged)
	if reason.Of(err) != reason.SignatureInvalid {
		t.Errorf("a copied image: %v, want %s", err, reason.SignatureInvalid)
	}
}

package negotiate_test

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/internal/regtest"
	"github.com/referee-cri/referee/negotiate"
)

// attachFile attaches one blob as an artifact of that type, as an image manifest
// whose config says the type.
func attachFile(t *testing.T, reg *regtest.Registry, subject ocispec.Descriptor, artifactType, mediaType, content string) ocispec.Descriptor {
	t.Helper()
	blob, err := reg.PutBlob(mediaType, []byte(content))
	if err != nil {
		t.Fatal(err)
	}
	config, err := reg.PutBlob(artifactType, []byte("{}"))
	if err != nil {
		t.Fatal(err)
	}
	d, err := reg.PutJSON("app", "", ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: config,
		Layers: []ocispec.Descriptor{blob}, Subject: &ocispec.Descriptor{MediaType: subject.MediaType, Digest: subject.Digest, Size: subject.Size},
	})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// goodContent takes every notation signature whose content is "good".
type goodContent struct{}

func (goodContent) Name() string { return "release" }

func (goodContent) Accepts(kind negotiate.SignatureKind) bool {
	return kind == negotiate.SignatureNotation
}

func (goodContent) Verify(_ context.Context, _ negotiate.Target, s negotiate.Signature) (negotiate.Signer, error) {
	if string(s.Content) != "good" {
		return negotiate.Signer{}, reason.Errorf(reason.SignatureInvalid, "content is not good")
	}
	return negotiate.Signer{Identity: "CN=release"}, nil
}

func TestInspectDrawsTheWholeTree(t *testing.T) {
	t.Parallel()
	reg := regtest.New(t, regtest.Options{})
	img := putImage(t, reg, "app", "1", regtest.ImageSpec{})
	unsigned := form{artifactType: typeNative, layers: 2, seed: "newer", created: "2026-02-01T00:00:00Z"}.attach(t, reg, "app", img.Descriptor)
	signed := form{artifactType: typeNative, layers: 2, created: "2026-01-01T00:00:00Z"}.attach(t, reg, "app", img.Descriptor)
	signature := attachFile(t, reg, signed, "application/vnd.cncf.notary.signature", "application/jose+json", "good")
	sbom := attachFile(t, reg, img.Descriptor, "application/spdx+json", "application/spdx+json", "\x1b[2Jpackages")

	n := newNegotiator(t, negotiate.Options{Policy: negotiate.Uniform(negotiate.Rules{
		Name: "team", RequireSignature: true, Verifiers: []negotiate.Verifier{goodContent{}},
	})})
	inspection, err := n.Inspect(t.Context(), negotiate.Request{Reference: reg.Ref("app", "1"), Platform: amd64})
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	if err := inspection.WriteText(&text); err != nil {
		t.Fatal(err)
	}
	got := strings.NewReplacer(
		reg.Host(), "HOST", img.Descriptor.Digest.String(), "IMAGE", unsigned.Digest.String(), "UNSIGNED",
		signed.Digest.String(), "SIGNED", signature.Digest.String(), "SIGNATURE", sbom.Digest.String(), "SBOM",
	).Replace(text.String())
	head, tree, _ := strings.Cut(got, "policy: ")
	if !strings.HasPrefix(head, "HOST/app:1\nlinux/amd64, 2 layers, ") {
		t.Errorf("head is %q", head)
	}
	const want = `team

manifest IMAGE
├── UNSIGNED
│     application/vnd.containerd.overlaybd.native.v1+json, found by referrers-api, made 2026-02-01 00:00, 24 bytes in 2 blobs
│     - overlaybd: unsigned: policy team wants a signature and it has none
├── SIGNED
│     application/vnd.containerd.overlaybd.native.v1+json, found by referrers-api, made 2026-01-01 00:00, 14 bytes in 2 blobs
│     * overlaybd: would be used
│   └── SIGNATURE
│         application/vnd.cncf.notary.signature, found by referrers-api
│         * notation signature: convincing
└── SBOM
      application/spdx+json, found by referrers-api
      this is a software bill of materials, not a form of the image

lazy, as overlaybd, on the word of CN=release (release, notation)
`
	if diff := cmp.Diff(want, tree); diff != "" {
		t.Error(diff)
	}
	var back map[string]any
	encoded, err := json.Marshal(inspection)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(encoded, &back); err != nil || back["outcome"] != "lazy" || back["artifact"] != signed.Digest.String() {
		t.Errorf("as JSON: %s, %v", encoded, err)
	}
}

// TestInspectIsBounded: an artifact can have referrers without end.
func TestInspectIsBounded(t *testing.T) {
	t.Parallel()
	reg := regtest.New(t, regtest.Options{})
	img := putImage(t, reg, "app", "1", regtest.ImageSpec{})
	below := img.Descriptor
	for range 8 {
		below = attachFile(t, reg, below, "application/spdx+json", "text/plain", "x")
	}
	for i := range 300 {
		attachFile(t, reg, img.Descriptor, "application/spdx+json", "text/plain", strings.Repeat("y", i+1))
	}
	inspection, err := newNegotiator(t, negotiate.Options{}).Inspect(t.Context(), negotiate.Request{Reference: reg.Ref("app", "1"), Platform: amd64})
	if err != nil {
		t.Fatal(err)
	}
	if got := len(inspection.Manifest.Attached); got != 301 {
		t.Errorf("%d artifacts, want 301", got)
	}
	if asked := len(requests(reg)); asked > 2*256+16 {
		t.Errorf("%d requests", asked)
	}
	cut := 0
	for _, a := range inspection.Manifest.Attached {
		if a.Problem != "" {
			cut++
		}
	}
	if cut < 301-256 {
		t.Errorf("%d artifacts are marked as not looked at", cut)
	}
}

package negotiate_test

import (
	"context"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/internal/regtest"
	"github.com/referee-cri/referee/negotiate"
)

// brokenVerifier has a defect that a signature brings to light.
type brokenVerifier struct{}

func (brokenVerifier) Name() string                         { return "broken" }
func (brokenVerifier) Accepts(negotiate.SignatureKind) bool { return true }
func (brokenVerifier) Verify(context.Context, negotiate.Target, negotiate.Signature) (negotiate.Signer, error) {
	panic("defect")
}

// brokenRecogniser has a defect that an artifact brings to light.
type brokenRecogniser struct{}

func (brokenRecogniser) Format() string          { return "broken" }
func (brokenRecogniser) ArtifactTypes() []string { return []string{typeNative} }
func (brokenRecogniser) LegacyTypes() []string   { return nil }
func (brokenRecogniser) Recognise(context.Context, negotiate.Artifact) (*negotiate.Candidate, error) {
	panic("defect")
}

// TestPanicsAreContained: a defect in the goroutines of a plan costs the form, and
// not the process that containers read through.
func TestPanicsAreContained(t *testing.T) {
	t.Parallel()
	reg := regtest.New(t, regtest.Options{})
	img := putImage(t, reg, "app", "1", regtest.ImageSpec{})
	artifact := form{artifactType: typeNative, layers: 2}.attach(t, reg, "app", img.Descriptor)
	k := newKey(t)
	k.attach(t, reg, "app", negotiate.SignatureNotation, artifact)

	t.Run("verifier", func(t *testing.T) {
		t.Parallel()
		p := plan(t, newNegotiator(t, negotiate.Options{Policy: wantSignatures(brokenVerifier{})}), reg.Ref("app", "1"))
		if p.Lazy() || p.Reason != reason.Internal {
			t.Errorf("lazy %t, %s: %s", p.Lazy(), p.Reason, p.Detail)
		}
	})
	t.Run("another verifier still counts", func(t *testing.T) {
		t.Parallel()
		p := plan(t, newNegotiator(t, negotiate.Options{Policy: wantSignatures(brokenVerifier{}, k.store("ours"))}), reg.Ref("app", "1"))
		if !p.Lazy() {
			t.Errorf("%s: %s", p.Reason, p.Detail)
		}
	})
	t.Run("recogniser", func(t *testing.T) {
		t.Parallel()
		p := plan(t, newNegotiator(t, negotiate.Options{Recognisers: []negotiate.Recogniser{brokenRecogniser{}}}), reg.Ref("app", "1"))
		if p.Lazy() || len(p.Rejected) != 1 || p.Rejected[0].Reason != reason.Internal {
			t.Errorf("lazy %t, rejected %+v", p.Lazy(), p.Rejected)
		}
	})
	t.Run("image verifier", func(t *testing.T) {
		t.Parallel()
		p := plan(t, newNegotiator(t, negotiate.Options{VerifyImage: func(context.Context, string, ocispec.Descriptor) error { panic("defect") }}), reg.Ref("app", "1"))
		if p.Lazy() || p.Reason != reason.Internal && p.Reason != reason.ImageDenied {
			t.Errorf("lazy %t, %s: %s", p.Lazy(), p.Reason, p.Detail)
		}
	})
}

package interop_test

import (
	"path/filepath"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/internal/testdata"
	"github.com/referee-cri/referee/negotiate"
	signsigstore "github.com/referee-cri/referee/negotiate/publish/sigstore"
)

// schemes are the places where cosign puts a signature, with the kind that is
// found there and cosign's flag for it.
var schemes = map[signsigstore.Scheme]struct {
	kind negotiate.SignatureKind
	flag string
}{
	signsigstore.SchemeBundle: {negotiate.SignatureBundle, "--new-bundle-format=true"},
	signsigstore.SchemeTag:    {negotiate.SignatureCosign, "--new-bundle-format=false"},
}

// signAsCosign signs with the command line, without Sigstore's public services.
func signAsCosign(t *testing.T, cosign program, k keyPair, flag, ref string) {
	t.Helper()
	cosign.run(t, "sign", "--yes", "--key", k.private, flag, "--tlog-upload=false", "--use-signing-config=false", ref)
}

func verifyAsCosign(t *testing.T, cosign program, k keyPair, flag, ref string) error {
	t.Helper()
	_, err := cosign.try(t, "verify", "--key", k.public, flag, "--insecure-ignore-tlog=true", ref)
	return err
}

// TestCosignsSignatureOfAFormCounts has the command line sign forms.
func TestCosignsSignatureOfAFormCounts(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, p place) {
		for scheme, s := range schemes {
			t.Run(string(scheme), func(t *testing.T) {
				t.Parallel()
				cosign, repository := newCosign(t), "team/"+string(scheme)
				key, stranger := generate(t, cosign), newKeyPair(t)
				_, form := p.putForm(t, repository)
				signAsCosign(t, cosign, key, s.flag, p.ref(repository, form.Digest.String()))
				ref := p.ref(repository, "1")
				got := plan(t, ref, signedBy(trusted(t, key.public)))
				if !got.Lazy() || got.Chosen.Signer.Kind != s.kind || got.Chosen.Signer.Target.Descriptor.Digest != form.Digest {
					t.Errorf("%s: %s, chosen %+v", got.Reason, got.Detail, got.Chosen)
				}
				if got := plan(t, ref, signedBy(trusted(t, stranger.public))); got.Reason != reason.SignatureUntrusted {
					t.Errorf("with a stranger's key: %s: %s", got.Reason, got.Detail)
				}
			})
		}
	})
}

// TestCosignAcceptsOurSignature has the command line verify what Referee signed,
// alone and beside a signature of cosign's own.
func TestCosignAcceptsOurSignature(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, p place) {
		for scheme, s := range schemes {
			t.Run(string(scheme), func(t *testing.T) {
				t.Parallel()
				cosign, repository := newCosign(t), string(scheme)
				first, second, third, stranger := newKeyPair(t), generate(t, cosign), newKeyPair(t), newKeyPair(t)
				_, form := p.putForm(t, repository)
				ref := p.ref(repository, form.Digest.String())
				ours := func(k keyPair) {
					if _, err := k.sign(scheme)(t.Context(), p.repository(t, repository), form); err != nil {
						t.Fatal(err)
					}
				}
				ours(first)
				signAsCosign(t, cosign, second, s.flag, ref)
				ours(third)
				for name, k := range map[string]keyPair{"our first": first, "cosign's": second, "our second": third} {
					if err := verifyAsCosign(t, cosign, k, s.flag, ref); err != nil {
						t.Errorf("%s signature: cosign says %v", name, err)
					}
					if got := plan(t, p.ref(repository, "1"), signedBy(trusted(t, k.public))); !got.Lazy() {
						t.Errorf("%s signature: %s: %s", name, got.Reason, got.Detail)
					}
				}
				if err := verifyAsCosign(t, cosign, stranger, s.flag, ref); err == nil {
					t.Error("cosign takes a stranger's key")
				}
			})
		}
	})
}

// TestCosignsKeyFileSigns signs with a private key that cosign has encrypted.
func TestCosignsKeyFileSigns(t *testing.T) {
	t.Parallel()
	p, cosign := withAPI(t), newCosign(t)
	key := generate(t, cosign)
	_, form := p.putForm(t, "app")
	if _, err := key.sign("")(t.Context(), p.repository(t, "app"), form); err != nil {
		t.Fatal(err)
	}
	if err := verifyAsCosign(t, cosign, key, schemes[signsigstore.SchemeBundle].flag, p.ref("app", form.Digest.String())); err != nil {
		t.Errorf("cosign says %v", err)
	}
}

// TestSignedImageDoesNotCoverItsForms: the reference image is signed with cosign
// in both ways, and none of the forms attached to it is.
func TestSignedImageDoesNotCoverItsForms(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, p place) {
		image := p.putReference(t, "lab/tiny", "tiny", "tiny", tinySignature)
		public := filepath.Join(testdata.Dir(t, "reference"), "cosign.pub")
		for _, s := range schemes {
			key := keyPair{public: public}
			if err := verifyAsCosign(t, newCosign(t), key, s.flag, p.ref("lab/tiny", image.Digest.String())); err != nil {
				t.Errorf("cosign does not take the image: %v", err)
			}
		}
		got := plan(t, p.ref("lab/tiny", "tiny"), signedBy(trusted(t, public)))
		if got.Lazy() || got.Reason != reason.Unsigned || !strings.Contains(got.Detail, "the image is signed, this form of it is not") {
			t.Errorf("%s: %s", got.Reason, got.Detail)
		}
		unsigned := 0
		for _, r := range got.Rejected {
			if r.Reason == reason.Unsigned && r.Format == "overlaybd" {
				unsigned++
			}
		}
		if unsigned != 2 {
			t.Errorf("%d overlaybd forms are refused as unsigned, want 2: %+v", unsigned, got.Rejected)
		}
		if got := plan(t, p.ref("lab/tiny", "tiny"), negotiate.Rules{}); !got.Lazy() {
			t.Errorf("where no signature is wanted: %s: %s", got.Reason, got.Detail)
		}
	})
}

// tinySignature is the tag under which cosign keeps the reference image's signature.
const tinySignature = "sha256-07dd292726603f52d87bd8ab9a856f6b98b9abef5eea6be23a1b4a4757e40063.sig"

// TestSignedImageCoversAFormInPlace signs an eStargz image, by cosign and by Referee.
func TestSignedImageCoversAFormInPlace(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, p place) {
		for scheme, s := range schemes {
			for who, sign := range map[string]func(t *testing.T, cosign program, repository string, image ocispec.Descriptor) keyPair{
				"referee": func(t *testing.T, _ program, repository string, image ocispec.Descriptor) keyPair {
					key := newKeyPair(t)
					if _, err := key.sign(scheme)(t.Context(), p.repository(t, repository), image); err != nil {
						t.Fatal(err)
					}
					return key
				},
				"cosign": func(t *testing.T, cosign program, repository string, image ocispec.Descriptor) keyPair {
					key := generate(t, cosign)
					signAsCosign(t, cosign, key, s.flag, p.ref(repository, image.Digest.String()))
					return key
				},
			} {
				t.Run(string(scheme)+" by "+who, func(t *testing.T) {
					t.Parallel()
					cosign, repository := newCosign(t), string(scheme)+"/"+who
					image := p.putReference(t, repository, "estargz", "tiny-estargz")
					before := signedBy(trusted(t, newKeyPair(t).public))
					if got := plan(t, p.ref(repository, "tiny-estargz"), before); got.Reason != reason.Unsigned {
						t.Fatalf("before signing: %s: %s", got.Reason, got.Detail)
					}
					key := sign(t, cosign, repository, image)
					if err := verifyAsCosign(t, cosign, key, s.flag, p.ref(repository, image.Digest.String())); err != nil {
						t.Errorf("cosign says %v", err)
					}
					got := plan(t, p.ref(repository, "tiny-estargz"), signedBy(trusted(t, key.public)))
					if !got.Lazy() || !got.Chosen.Bound || got.Chosen.Format != "estargz" || got.Chosen.Signer.Target.Descriptor.Digest != image.Digest {
						t.Errorf("%s: %s, chosen %+v", got.Reason, got.Detail, got.Chosen)
					}
				})
			}
		}
	})
}

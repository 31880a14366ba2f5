package interop_test

import (
	"errors"
	"testing"
	"time"

	"github.com/notaryproject/notation-core-go/signature"
	"github.com/notaryproject/notation-go"
	"github.com/notaryproject/notation-go/dir"
	"github.com/notaryproject/notation-go/registry"
	"github.com/notaryproject/notation-go/signer"
	"github.com/notaryproject/notation-go/verifier"
	"github.com/notaryproject/notation-go/verifier/trustpolicy"
	"github.com/notaryproject/notation-go/verifier/truststore"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/negotiate"
	signnotation "github.com/referee-cri/referee/negotiate/publish/notation"
	"github.com/referee-cri/referee/negotiate/trust/notation/notarytest"
)

// envelopes are the media types of notation's envelopes, by Referee's names.
var envelopes = map[string]string{signnotation.EnvelopeJWS: notarytest.JWS, signnotation.EnvelopeCOSE: notarytest.COSE}

// TestNotationsSignatureCounts has notation-go sign a form and push the signature.
func TestNotationsSignatureCounts(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, p place) {
		for envelope, mediaType := range envelopes {
			t.Run(envelope, func(t *testing.T) {
				t.Parallel()
				issuer := newNotary(t)
				_, form := p.putForm(t, "team/"+envelope)
				ref, stores := p.ref("team/"+envelope, "1"), map[string]negotiate.Verifier{
					"for everything":          load(t, issuer.store(t, "*")),
					"for this repository":     load(t, issuer.store(t, p.host+"/team/"+envelope)),
					"for another repository":  load(t, issuer.store(t, p.host+"/team/other")),
					"of another authority":    load(t, newNotary(t).store(t, "*")),
					"that trusts another man": load(t, anotherMan(t, issuer)),
				}
				if got := plan(t, ref, signedBy(stores["for everything"])); got.Reason != reason.Unsigned {
					t.Fatalf("before signing: %s: %s", got.Reason, got.Detail)
				}
				signAsNotation(t, p, "team/"+envelope, form, issuer, mediaType)
				for name, want := range map[string]reason.Code{
					"for everything": reason.None, "for this repository": reason.None,
					"for another repository": reason.SignatureUntrusted, "of another authority": reason.SignatureUntrusted,
					"that trusts another man": reason.SignatureUntrusted,
				} {
					got := plan(t, ref, signedBy(stores[name]))
					if got.Reason != want || got.Lazy() != (want == reason.None) {
						t.Errorf("trust store %s: %s: %s, want %s", name, got.Reason, got.Detail, want)
					}
					if got.Lazy() && (got.Chosen.Signer.Kind != negotiate.SignatureNotation || got.Chosen.Signer.Target.Descriptor.Digest != form.Digest) {
						t.Errorf("trust store %s: signed by %+v", name, got.Chosen.Signer)
					}
				}
			})
		}
	})
}

// anotherMan trusts only somebody else who has a certificate of the same authority.
func anotherMan(t *testing.T, issuer notary) *notarytest.Store {
	t.Helper()
	s := issuer.store(t, "*")
	statement := notarytest.Statement("ca:prod")
	statement.TrustedIdentities = []string{"x509.subject: C=XX, ST=Here, O=Referee, CN=somebody else"}
	s.SetPolicy(t, statement)
	return s
}

func signAsNotation(t *testing.T, p place, repository string, form ocispec.Descriptor, issuer notary, mediaType string) {
	t.Helper()
	keyFile, certFile := issuer.builder.Files(t)
	s, err := signer.NewGenericSignerFromFiles(keyFile, certFile)
	if err != nil {
		t.Fatal(err)
	}
	_, err = notation.Sign(t.Context(), s, registry.NewRepository(p.repository(t, repository)), notation.SignOptions{
		SignerSignOptions: notation.SignerSignOptions{SignatureMediaType: mediaType, ExpiryDuration: time.Hour},
		ArtifactReference: p.ref(repository, form.Digest.String()),
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestNotationsSignatureDoesNotCount pushes what does not hold with notation-go's
// own client.
func TestNotationsSignatureDoesNotCount(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, p place) {
		issuer := newNotary(t)
		store := load(t, issuer.store(t, "*"))
		for name, tc := range map[string]struct {
			of     func(image, form ocispec.Descriptor) ocispec.Descriptor
			change func(*signature.SignRequest)
			want   reason.Code
		}{
			"expired": {
				of: func(_, form ocispec.Descriptor) ocispec.Descriptor { return form },
				change: func(r *signature.SignRequest) {
					r.SigningTime = time.Now().Add(-10 * time.Minute)
					r.Expiry = r.SigningTime.Add(time.Minute)
				},
				want: reason.SignatureUntrusted,
			},
			"of-the-image": {
				of:   func(image, _ ocispec.Descriptor) ocispec.Descriptor { return image },
				want: reason.SignatureInvalid,
			},
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				image, form := p.putForm(t, name)
				subject := ocispec.Descriptor{MediaType: form.MediaType, Digest: form.Digest, Size: form.Size}
				content := issuer.builder.Sign(t, notarytest.JWS, tc.of(image.Descriptor, subject), tc.change)
				client := registry.NewRepository(p.repository(t, name))
				if _, _, err := client.PushSignature(t.Context(), notarytest.JWS, content, subject, nil); err != nil {
					t.Fatal(err)
				}
				if got := plan(t, p.ref(name, "1"), signedBy(store)); got.Lazy() || got.Reason != tc.want {
					t.Errorf("%s: %s, want %s", got.Reason, got.Detail, tc.want)
				}
			})
		}
	})
}

// TestNotationAcceptsOurSignature has notation-go verify what Referee signed.
func TestNotationAcceptsOurSignature(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, p place) {
		for envelope := range envelopes {
			t.Run(envelope, func(t *testing.T) {
				t.Parallel()
				issuer := newNotary(t)
				_, form := p.putForm(t, envelope)
				verify := func(trusting notary, scope string) error {
					doc := &trustpolicy.Document{Version: "1.0", TrustPolicies: []trustpolicy.TrustPolicy{notarytest.Statement("ca:prod")}}
					doc.TrustPolicies[0].RegistryScopes = []string{p.host + "/" + scope}
					v, err := verifier.New(doc, truststore.NewX509TrustStore(dir.NewSysFS(trusting.store(t, "*").Dir)), nil)
					if err != nil {
						t.Fatal(err)
					}
					_, _, err = notation.Verify(t.Context(), v, registry.NewRepository(p.repository(t, envelope)), notation.VerifyOptions{
						ArtifactReference: p.ref(envelope, form.Digest.String()), MaxSignatureAttempts: 5,
					})
					return err
				}
				var absent notation.SignatureRetrievalFailedError
				if err := verify(issuer, envelope); !errors.As(err, &absent) {
					t.Fatalf("before signing notation says %v", err)
				}
				if _, err := issuer.sign(t, envelope)(t.Context(), p.repository(t, envelope), form); err != nil {
					t.Fatal(err)
				}
				if err := verify(issuer, envelope); err != nil {
					t.Errorf("notation says %v", err)
				}
				var failed notation.VerificationFailedError
				if err := verify(newNotary(t), envelope); !errors.As(err, &failed) {
					t.Errorf("with another authority notation says %v", err)
				}
				var unscoped notation.NoApplicableTrustPolicyError
				if err := verify(issuer, "other"); !errors.As(err, &unscoped) {
					t.Errorf("with another scope notation says %v", err)
				}
			})
		}
	})
}

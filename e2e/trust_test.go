package e2e_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/notaryproject/notation-core-go/signature"
	"github.com/notaryproject/notation-go/registry"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry/remote"

	"github.com/referee-cri/referee/fallback"
	"github.com/referee-cri/referee/internal/conversion"
	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/internal/regtest"
	"github.com/referee-cri/referee/negotiate"
	signnotation "github.com/referee-cri/referee/negotiate/publish/notation"
	signsigstore "github.com/referee-cri/referee/negotiate/publish/sigstore"
	"github.com/referee-cri/referee/negotiate/trust/notation/notarytest"
)

var schemes = []scheme{
	notationScheme(signnotation.EnvelopeJWS),
	notationScheme(signnotation.EnvelopeCOSE),
	cosignScheme(negotiate.SignatureBundle, signsigstore.SchemeBundle),
	cosignScheme(negotiate.SignatureCosign, signsigstore.SchemeTag),
}

// TestSignedForm goes the whole way, from `referee convert --sign` to a container,
// and pulls what is the same but for the signature.
func TestSignedForm(t *testing.T) {
	t.Parallel()
	m := newMarket(t)
	for _, scheme := range schemes {
		t.Run(scheme.name, func(t *testing.T) {
			t.Run("signed", func(t *testing.T) {
				s := m.newStall(t, scheme)
				form := s.signed(t)
				s.registry.ResetRequests()
				s.expectSigned(t, form.Artifact.Digest)
				s.expectNoLayerFetched(t, s.layout, "tiny")
			})
			t.Run("unsigned", func(t *testing.T) {
				s := m.newStall(t, scheme)
				form := s.convert(t, "tiny")[0]
				s.registry.ResetRequests()
				s.expectOrdinary(t, outcome{reason: reason.Unsigned, says: "wants a signature and it has none"})
				s.expectUnread(t, form)
			})
			t.Run("beside a newer one that nobody signed", func(t *testing.T) {
				s := m.newStall(t, scheme)
				unsigned := s.attach(t, s.newer(t))
				form := s.signed(t)
				entry := s.expectSigned(t, form.Artifact.Digest)
				if !slices.ContainsFunc(entry.Rejected, func(r fallback.Rejected) bool {
					return r.Artifact == unsigned.Digest && r.Reason == reason.Unsigned
				}) {
					t.Errorf("the newer form was not preferred and refused: %+v", entry.Rejected)
				}
			})
			t.Run("its index alone", func(t *testing.T) {
				s := m.newStall(t, scheme)
				s.expectIndexCounts(t)
			})
		})
	}
}

// expectSigned pulls lazily, on the publisher's word, what is read from a container then.
func (s *stall) expectSigned(t *testing.T, artifact digest.Digest) fallback.Entry {
	t.Helper()
	started := time.Now()
	container := s.expectLazy(t)
	entry := s.explained(t, s.ref, started)
	if entry.Artifact != artifact || entry.Policy != "*."+s.domain+"/**" ||
		!strings.HasSuffix(entry.Signer, fmt.Sprintf("(%s, %s)", s.trust, s.kind)) {
		t.Errorf("%s was used, on the word of %q, by policy %q; want %s", entry.Artifact, entry.Signer, entry.Policy, artifact)
	}
	text := s.bed.command.run(t, "explain", s.ref)
	for _, want := range []string{"lazy, as overlaybd", "verified by", entry.Signer, entry.Policy} {
		if !strings.Contains(text, want) {
			t.Errorf("explain does not say %q:\n%s", want, text)
		}
	}
	s.expectSums(t, container, sample...)
	s.release(t, container)
	s.logged = len(s.referee.Log())
	return entry
}

// expectUnread fails if a layer of a form was asked for.
func (c *trial) expectUnread(t *testing.T, form conversion.Attached) {
	t.Helper()
	for _, layer := range form.Layers {
		if n, _ := c.registry.Count(func(e regtest.Entry) bool { return strings.HasSuffix(e.Path, layerPath(layer.Digest)) }); n > 0 {
			t.Errorf("a layer of the form was asked for %d times", n)
		}
	}
}

// expectIndexCounts pulls one platform of an image by a form for whose index there
// is a signature, while that of the form itself is not to be seen.
func (s *stall) expectIndexCounts(t *testing.T) {
	t.Helper()
	mine := s.image.descriptor
	mine.Platform = &s.image.config.Platform
	other, err := s.registry.PutImage("tiny", "", regtest.ImageSpec{Platform: &ocispec.Platform{OS: "linux", Architecture: "s390x"}})
	if err == nil {
		_, err = s.registry.PutIndex("tiny", "multi", &regtest.Image{Descriptor: mine}, other)
	}
	if err != nil {
		t.Fatal(err)
	}
	made := s.convert(t, "multi", s.by(s.publisher)...)
	if len(made) != 2 {
		t.Fatalf("converted for %d platforms, want 2", len(made))
	}
	form := made[0].Artifact.Digest
	s.hide(t, made[0].Signature.Digest, form)
	s.ref = strings.TrimSuffix(s.ref, "tiny") + "multi"
	if entry := s.expectSigned(t, form); !strings.Contains(entry.Signer, "publisher") && s.trust == "release" {
		t.Errorf("signed by %q", entry.Signer)
	}
}

// TestSignatureDoesNotCount pulls forms that seem to be signed.
func TestSignatureDoesNotCount(t *testing.T) {
	t.Parallel()
	m := newMarket(t)
	for _, scheme := range schemes {
		t.Run(scheme.name, func(t *testing.T) {
			for _, tc := range []struct {
				name    string
				arrange func(*testing.T, *stall) conversion.Attached
				reason  reason.Code
				says    string
			}{
				{"by a stranger", func(t *testing.T, s *stall) conversion.Attached {
					t.Helper()
					return s.convert(t, "tiny", s.by(newParty(t, "stranger"))...)[0]
				}, reason.SignatureUntrusted, "trust store " + scheme.trust},
				{"of another form", func(t *testing.T, s *stall) conversion.Attached {
					t.Helper()
					genuine, forged := s.signed(t), s.convert(t, "tiny", "--algorithm", "lz4")[0]
					s.reattach(t, *genuine.Signature, forged.Artifact)
					s.hide(t, genuine.Artifact.Digest, genuine.Artifact.Digest)
					return forged
				}, reason.SignatureInvalid, "trust store " + scheme.trust},
				{"of the image", func(t *testing.T, s *stall) conversion.Attached {
					t.Helper()
					s.mark(t, s.image.descriptor)
					return s.convert(t, "tiny")[0]
				}, reason.Unsigned, sayingUncovered(scheme)},
				{"hidden", func(t *testing.T, s *stall) conversion.Attached {
					t.Helper()
					form := s.signed(t)
					s.hide(t, form.Signature.Digest, form.Artifact.Digest)
					return form
				}, reason.Unsigned, "wants a signature and it has none"},
				{"of a form that was swapped", func(t *testing.T, s *stall) conversion.Attached {
					t.Helper()
					form := s.signed(t)
					s.swap(form.Artifact)
					return form
				}, reason.DigestMismatch, "hashes to"},
				{"not to be had", func(t *testing.T, s *stall) conversion.Attached {
					t.Helper()
					form := s.signed(t)
					s.registry.Inject(regtest.Fault{Match: regtest.Path("/referrers/" + form.Artifact.Digest.String()), Status: http.StatusBadGateway})
					s.registry.Inject(regtest.Fault{Match: regtest.Path(form.Artifact.Digest.Encoded() + ".sig"), Status: http.StatusBadGateway})
					return form
				}, reason.RegistryError, "502"},
			} {
				t.Run(tc.name, func(t *testing.T) {
					s := m.newStall(t, scheme)
					s.expectPassedOver(t, tc.arrange(t, s), tc.reason, tc.says)
				})
			}
		})
	}
	for name, change := range map[string]func(*signature.SignRequest){
		"expired": func(r *signature.SignRequest) {
			r.SigningTime = time.Now().Add(-50 * time.Minute)
			r.Expiry = r.SigningTime.Add(time.Minute)
		},
		"by an expired certificate": func(r *signature.SignRequest) { r.SigningTime = time.Now().Add(-90 * time.Minute) },
	} {
		t.Run(name, func(t *testing.T) {
			s := m.newStall(t, schemes[0])
			form := s.convert(t, "tiny")[0]
			request := notarytest.Request{Name: "publisher"}
			if name != "expired" {
				request.From, request.To = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
			}
			subject := ocispec.Descriptor{MediaType: form.Artifact.MediaType, Digest: form.Artifact.Digest, Size: form.Artifact.Size}
			content := m.publisher.root.Issue(t, request).Sign(t, notarytest.JWS, subject, change)
			repo, err := remote.NewRepository(s.registry.Ref("tiny", "tiny"))
			if err != nil {
				t.Fatal(err)
			}
			repo.PlainHTTP = true
			if _, _, err := registry.NewRepository(repo).PushSignature(t.Context(), notarytest.JWS, content, subject, nil); err != nil {
				t.Fatal(err)
			}
			s.expectPassedOver(t, form, reason.SignatureUntrusted, "expired")
		})
	}
}

// sayingUncovered is part of the sentence where only the image is signed. cosign's
// tag of the image is nothing that is attached to it.
func sayingUncovered(s scheme) string {
	if s.kind == negotiate.SignatureCosign {
		return "wants a signature and it has none"
	}
	return "a signature of the image does not cover what is attached to it"
}

// expectPassedOver pulls the image, for which the form does not count.
func (s *stall) expectPassedOver(t *testing.T, form conversion.Attached, code reason.Code, says string) {
	t.Helper()
	s.registry.ResetRequests()
	started := time.Now()
	if _, err := s.lazy.Pull(t.Context(), s.ref, nil); err != nil {
		t.Fatal(err)
	}
	entry := s.explained(t, s.ref, started)
	if entry.Outcome != fallback.Ordinary || entry.Reason != code || !strings.Contains(entry.Sentence, says) {
		t.Errorf("pull was %s, %s: %q; want it ordinary, %s: %q", entry.Outcome, entry.Reason, entry.Sentence, code, says)
	}
	if entry.Policy != "*."+s.domain+"/**" || entry.Signer != "" || entry.Forward == nil || entry.Forward.Error != "" {
		t.Errorf("journal: %+v", entry)
	}
	s.expectUnread(t, form)
	s.expectNothingRemains(t)
	if err := s.lazy.Remove(t.Context(), s.ref); err != nil {
		t.Error(err)
	}
	s.logged = len(s.referee.Log())
}

// The log's lines about a trust store whose files have changed.
const (
	trustReadAgain = "trust store read again"
	trustKept      = "trust store kept as it was: its files cannot be used"
)

// TestTrustChanges gives a node other people to trust while it runs, and files
// that nobody can use: then those of before stay in force, but not beyond a restart.
func TestTrustChanges(t *testing.T) {
	t.Parallel()
	m := newMarket(t)
	for _, tc := range []struct {
		scheme scheme
		trust  func(*testing.T, party)
		ruin   func(*testing.T)
	}{
		{
			schemes[0],
			func(t *testing.T, p party) {
				t.Helper()
				m.store.SetPolicy(t, notarytest.Statement("ca:prod"))
				m.store.Trust(t, "ca", "prod", p.root.Certificate())
			},
			func(t *testing.T) { t.Helper(); notarytest.Write(t, m.store.PolicyFile, []byte("{")) },
		},
		{
			schemes[2],
			func(t *testing.T, p party) { t.Helper(); notarytest.Write(t, m.keys, p.publicPEM(t)) },
			func(t *testing.T) { t.Helper(); notarytest.Write(t, m.keys, []byte("no key")) },
		},
	} {
		t.Run(tc.scheme.name, func(t *testing.T) {
			s, next := m.newStall(t, tc.scheme), newParty(t, "successor")
			form := s.convert(t, "tiny", s.by(next)...)[0]
			s.expectPassedOver(t, form, reason.SignatureUntrusted, "trust store "+s.trust)
			before := s.logged
			tc.trust(t, next)
			s.expectSigned(t, form.Artifact.Digest)
			if told := strings.Count(s.referee.Log()[before:], trustReadAgain); told != 1 {
				t.Errorf("the log says %d times that the trust store was read again, want once", told)
			}
			before = s.logged
			tc.ruin(t)
			s.expectSigned(t, form.Artifact.Digest) // a half-written file takes nobody's trust away
			if !strings.Contains(s.referee.Log()[before:], trustKept) {
				t.Error("the log does not say that the trust store's files cannot be used")
			}
			s.end(t, s.referee.Stop)
			s.begin(t)
			s.expectPassedOver(t, form, reason.SignatureUntrusted, "trust store "+s.trust+" cannot be used")
		})
	}
}

package sigstore_test

import (
	"bytes"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/negotiate"
	"github.com/referee-cri/referee/negotiate/trust/sigstore"
)

func soon() time.Time { return time.Now().Add(time.Minute) }

func no() *bool { return new(bool) }

// judged verifies and checks the code, and that the error says a certain thing.
func judged(t *testing.T, opts sigstore.Options, s negotiate.Signature, code reason.Code, says string) {
	t.Helper()
	signer, err := load(t, opts).Verify(t.Context(), target(signed), s)
	if got := reason.Of(err); got != code {
		t.Fatalf("Verify: %v (%s), want %q", err, got, code)
	}
	if err != nil {
		if !strings.Contains(err.Error(), says) {
			t.Errorf("Verify: %v, want it to say %q", err, says)
		}
		return
	}
	want := negotiate.Signer{
		Trust: "release", Kind: s.Kind, Identity: issuer + " " + subject, Target: target(signed), Signature: s.Artifact.Digest,
	}
	if diff := cmp.Diff(want, signer); diff != "" {
		t.Errorf("signer (-want +got):\n%s", diff)
	}
}

func TestKeylessBundle(t *testing.T) {
	t.Parallel()
	mine, foreign := newVirtual(t), newVirtual(t)
	sign := statement(signed, sigstore.PredicateSign)
	for name, tc := range map[string]struct {
		by      *virtual
		content []byte
		at      time.Time
		change  func(*protobundle.Bundle)
		trust   func(*sigstore.Options, *parts)
		want    reason.Code
		says    string
	}{
		"verifies": {},
		"verifies by the log's time alone": {
			change: func(b *protobundle.Bundle) { b.VerificationMaterial.TimestampVerificationData = nil },
		},
		"verifies by a timestamp alone": {
			change: func(b *protobundle.Bundle) { b.VerificationMaterial.TlogEntries = nil },
			trust:  func(o *sigstore.Options, _ *parts) { o.RequireLog = no() },
		},
		"verifies by log and required timestamp": {
			trust: func(o *sigstore.Options, _ *parts) { o.RequireTimestamp = true },
		},
		"verifies for an issuer and a subject by expression": {
			trust: func(o *sigstore.Options, _ *parts) {
				o.Identities = []sigstore.Identity{{IssuerRegexp: `https://accounts\..*`, SubjectRegexp: `(release|ci)@team\.example`}}
			},
		},
		"verifies for the second of two identities": {
			trust: func(o *sigstore.Options, _ *parts) {
				o.Identities = append([]sigstore.Identity{{Issuer: issuer, Subject: "ci@team.example"}}, o.Identities...)
			},
		},
		"an expression must match the whole subject": {
			trust: func(o *sigstore.Options, _ *parts) {
				o.Identities = []sigstore.Identity{{Issuer: issuer, SubjectRegexp: `release@team|evil`}}
			},
			want: reason.SignatureUntrusted, says: "identity",
		},
		"wrong subject": {
			trust: func(o *sigstore.Options, _ *parts) { o.Identities[0].Subject = "ci@team.example" },
			want:  reason.SignatureUntrusted, says: "identity",
		},
		"wrong issuer": {
			trust: func(o *sigstore.Options, _ *parts) { o.Identities[0].Issuer = "https://elsewhere.example" },
			want:  reason.SignatureUntrusted, says: "identity",
		},
		"no identities, keys only": {
			trust: func(o *sigstore.Options, _ *parts) {
				o.Identities, o.Keys = nil, []string{writeKey(t, newECDSA(t).Public())}
			},
			want: reason.SignatureUntrusted, says: "no certificate identity is trusted",
		},
		"no trusted root, keys only": {
			trust: func(o *sigstore.Options, _ *parts) {
				*o = sigstore.Options{Keys: []string{writeKey(t, newECDSA(t).Public())}}
			},
			want: reason.SignatureUntrusted, says: "no certificate identity is trusted",
		},
		"another Sigstore's": {by: foreign, want: reason.SignatureUntrusted, says: "log that the trusted root does not name"},
		"another Sigstore's certificate, in our log": {
			trust: func(_ *sigstore.Options, p *parts) { p.authorities = foreign.parts().authorities },
			want:  reason.SignatureUntrusted, says: "not issued by an authority",
		},
		"the log is required and absent": {
			change: func(b *protobundle.Bundle) { b.VerificationMaterial.TlogEntries = nil },
			want:   reason.SignatureUntrusted, says: "there is no entry",
		},
		"a timestamp is required and absent": {
			change: func(b *protobundle.Bundle) { b.VerificationMaterial.TimestampVerificationData = nil },
			trust:  func(o *sigstore.Options, _ *parts) { o.RequireTimestamp = true },
			want:   reason.SignatureUntrusted, says: "timestamp",
		},
		"a timestamp is another authority's": {
			trust: func(o *sigstore.Options, p *parts) {
				o.RequireTimestamp = true
				p.stampers = foreign.parts().stampers
			},
			want: reason.SignatureUntrusted, says: "timestamp",
		},
		"a certificate used after its time": {
			at:   time.Now().Add(30 * time.Minute),
			want: reason.SignatureUntrusted, says: "certificate: not valid at",
		},
		"a certificate that no transparency log has seen": {
			trust: func(_ *sigstore.Options, p *parts) { p.ct = mine.logs(mine.CTLogs()) },
			want:  reason.SignatureUntrusted, says: "certificate",
		},
		"a changed payload": {
			change: func(b *protobundle.Bundle) {
				e := b.GetDsseEnvelope()
				e.Payload = bytes.Replace(e.GetPayload(), []byte(`"predicate":{}`), []byte(`"predicate":[]`), 1)
			},
			want: reason.SignatureInvalid, says: "transparency log",
		},
		"a changed payload, no log asked for": {
			change: func(b *protobundle.Bundle) {
				e := b.GetDsseEnvelope()
				e.Payload = bytes.Replace(e.GetPayload(), []byte(`"predicate":{}`), []byte(`"predicate":[]`), 1)
			},
			trust: func(o *sigstore.Options, _ *parts) { o.RequireLog = no() },
			want:  reason.SignatureInvalid, says: "signature",
		},
		"a changed subject": {
			content: statement(other, sigstore.PredicateSign),
			change: func(b *protobundle.Bundle) {
				e := b.GetDsseEnvelope()
				e.Payload = bytes.Replace(e.GetPayload(), []byte(other.Encoded()), []byte(signed.Encoded()), 1)
			},
			want: reason.SignatureInvalid, says: "transparency log",
		},
		"a changed log entry": {
			change: func(b *protobundle.Bundle) { b.VerificationMaterial.TlogEntries[0].IntegratedTime++ },
			want:   reason.SignatureInvalid, says: "transparency log",
		},
		"a log entry of another signature": {
			change: func(b *protobundle.Bundle) {
				b.VerificationMaterial.TlogEntries = mine.bundle(sign, soon()).GetVerificationMaterial().GetTlogEntries()
			},
			want: reason.SignatureInvalid, says: "transparency log",
		},
		"a log entry at another place in the tree": {
			change: func(b *protobundle.Bundle) {
				b.VerificationMaterial.TlogEntries[0].InclusionProof.RootHash = bytes.Repeat([]byte{1}, 32)
			},
			want: reason.SignatureInvalid, says: "transparency log",
		},
		"of something else": {
			content: statement(other, sigstore.PredicateSign),
			want:    reason.SignatureInvalid, says: "of something else",
		},
		"an SBOM of the image": {
			content: statement(signed, "https://spdx.dev/Document"),
			want:    reason.SignatureInvalid, says: `attestation of type "https://spdx.dev/Document"`,
		},
		"provenance of the image": {
			content: statement(signed, "https://slsa.dev/provenance/v1"),
			want:    reason.SignatureInvalid, says: "attestation",
		},
		"no statement at all": {content: []byte(`"signed"`), want: reason.SignatureInvalid, says: "in-toto"},
		"two signatures in one envelope": {
			change: func(b *protobundle.Bundle) {
				e := b.GetDsseEnvelope()
				e.Signatures = append(e.Signatures, e.GetSignatures()...)
			},
			want: reason.SignatureInvalid, says: "signature",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			by, content, at := mine, sign, soon()
			if tc.by != nil {
				by = tc.by
			}
			if tc.content != nil {
				content = tc.content
			}
			if !tc.at.IsZero() {
				at = tc.at
			}
			b := by.bundle(content, at)
			if tc.change != nil {
				tc.change(b)
			}
			opts, p := mine.options(), mine.parts()
			if tc.trust != nil {
				tc.trust(&opts, &p)
			}
			if opts.TrustedRoot != "" {
				opts.TrustedRoot = p.write(t)
			}
			judged(t, opts, encoded(t, b), tc.want, tc.says)
		})
	}
}

func TestKeylessSimpleSigning(t *testing.T) {
	t.Parallel()
	mine, foreign := newVirtual(t), newVirtual(t)
	for name, tc := range map[string]struct {
		by      *virtual
		content []byte
		at      time.Time
		change  func(*negotiate.Signature)
		trust   func(*sigstore.Options)
		want    reason.Code
		says    string
	}{
		"verifies": {},
		"verifies by the log's time alone": {
			change: func(s *negotiate.Signature) { delete(s.Annotations, "dev.sigstore.cosign/rfc3161timestamp") },
		},
		"verifies by a timestamp alone": {
			change: func(s *negotiate.Signature) { delete(s.Annotations, "dev.sigstore.cosign/bundle") },
			trust:  func(o *sigstore.Options) { o.RequireLog = no() },
		},
		"verifies by log and required timestamp": {trust: func(o *sigstore.Options) { o.RequireTimestamp = true }},
		"the log is required and absent": {
			change: func(s *negotiate.Signature) { delete(s.Annotations, "dev.sigstore.cosign/bundle") },
			want:   reason.SignatureUntrusted, says: "there is no entry",
		},
		"another Sigstore's": {by: foreign, want: reason.SignatureUntrusted, says: "log"},
		"wrong subject": {
			trust: func(o *sigstore.Options) { o.Identities[0].Subject = "ci@team.example" },
			want:  reason.SignatureUntrusted, says: "identity",
		},
		"a certificate used after its time": {
			at:   time.Now().Add(30 * time.Minute),
			want: reason.SignatureUntrusted, says: "certificate: not valid at",
		},
		"a changed payload": {
			change: func(s *negotiate.Signature) { s.Content = append(s.Content, '\n') },
			want:   reason.SignatureInvalid, says: "transparency log",
		},
		"a changed log entry": {
			change: func(s *negotiate.Signature) {
				entry := s.Annotations["dev.sigstore.cosign/bundle"]
				s.Annotations["dev.sigstore.cosign/bundle"] = strings.Replace(entry, `"logIndex":1000`, `"logIndex":1001`, 1)
			},
			want: reason.SignatureInvalid, says: "transparency log",
		},
		"another's certificate": {
			change: func(s *negotiate.Signature) {
				s.Annotations["dev.sigstore.cosign/certificate"] = mine.simple(payload(signed), soon()).Annotations["dev.sigstore.cosign/certificate"]
			},
			want: reason.SignatureInvalid, says: "transparency log",
		},
		"of something else": {content: payload(other), want: reason.SignatureInvalid, says: "of something else"},
		"of another type": {
			content: bytes.Replace(payload(signed), []byte("cosign container"), []byte("atomic container"), 1),
			want:    reason.SignatureInvalid, says: "type",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			by, content, at := mine, payload(signed), soon()
			if tc.by != nil {
				by = tc.by
			}
			if tc.content != nil {
				content = tc.content
			}
			if !tc.at.IsZero() {
				at = tc.at
			}
			s := by.simple(content, at)
			s.Annotations = maps.Clone(s.Annotations)
			if tc.change != nil {
				tc.change(&s)
			}
			opts := mine.options()
			if tc.trust != nil {
				tc.trust(&opts)
			}
			judged(t, opts, s, tc.want, tc.says)
		})
	}
}

package sigstore_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"testing"
	"time"

	"github.com/digitorus/timestamp"
	"github.com/opencontainers/go-digest"
	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protodsse "github.com/sigstore/protobuf-specs/gen/pb-go/dsse"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"github.com/sigstore/sigstore-go/pkg/root"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/negotiate/trust/sigstore"
)

// authority is a certificate authority of one's own, ten years old, which signs for
// code and for timestamps: a company's, without any log.
type authority struct {
	t    *testing.T
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, key: newECDSA(t)}
	a.cert = a.issue(&x509.Certificate{
		Subject: pkix.Name{CommonName: "authority"}, NotBefore: time.Now().AddDate(-10, 0, 0), NotAfter: time.Now().AddDate(10, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, a.key.Public())
	return a
}

func (a *authority) issue(template *x509.Certificate, public crypto.PublicKey) *x509.Certificate {
	a.t.Helper()
	parent := a.cert
	if parent == nil {
		parent = template
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert
}

// parts are a trusted root without logs.
func (a *authority) parts(stamper *x509.Certificate) parts {
	long := time.Now().AddDate(-10, 0, 0)
	p := parts{authorities: []root.CertificateAuthority{&root.FulcioCertificateAuthority{Root: a.cert, ValidityPeriodStart: long}}}
	if stamper != nil {
		p.stampers = []root.TimestampingAuthority{&root.SigstoreTimestampingAuthority{Root: a.cert, Leaf: stamper, ValidityPeriodStart: long}}
	}
	return p
}

func TestCertificateOfOnesOwn(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	stampKey := newECDSA(t)
	usage, err := asn1.Marshal([]asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 8}}) // RFC 3161, 2.3
	if err != nil {
		t.Fatal(err)
	}
	stamper := a.issue(&x509.Certificate{
		Subject: pkix.Name{CommonName: "stamper"}, NotBefore: time.Now().AddDate(-9, 0, 0), NotAfter: time.Now().AddDate(9, 0, 0),
		KeyUsage:        x509.KeyUsageDigitalSignature,
		ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 37}, Critical: true, Value: usage}},
	}, stampKey.Public())
	stampAt := func(made []byte, at time.Time) []byte {
		sum := sha256.Sum256(made)
		stamp := timestamp.Timestamp{HashAlgorithm: crypto.SHA256, HashedMessage: sum[:], Time: at, Policy: asn1.ObjectIdentifier{1, 2, 3}, AddTSACertificate: true}
		raw, err := stamp.CreateResponseWithOpts(stamper, stampKey, crypto.SHA256)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	// signedBy is a bundle by a certificate valid for a day from a time on.
	signedBy := func(from time.Time, stampedAt ...time.Time) *protobundle.Bundle {
		key := newECDSA(t)
		leaf := a.issue(&x509.Certificate{
			NotBefore: from, NotAfter: from.AddDate(0, 0, 1), EmailAddresses: []string{subject},
			KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
			ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 1}, Value: []byte(issuer)}},
		}, key.Public())
		content := statement(signed, sigstore.PredicateSign)
		made := sign(t, key, dsse(content), crypto.SHA256)
		evidence := &protobundle.VerificationMaterial{
			Content: &protobundle.VerificationMaterial_Certificate{Certificate: &protocommon.X509Certificate{RawBytes: leaf.Raw}},
		}
		for _, at := range stampedAt {
			evidence.TimestampVerificationData = &protobundle.TimestampVerificationData{
				Rfc3161Timestamps: []*protocommon.RFC3161SignedTimestamp{{SignedTimestamp: stampAt(made, at)}},
			}
		}
		return &protobundle.Bundle{
			MediaType: "application/vnd.dev.sigstore.bundle.v0.3+json", VerificationMaterial: evidence,
			Content: &protobundle.Bundle_DsseEnvelope{DsseEnvelope: &protodsse.Envelope{
				Payload: content, PayloadType: "application/vnd.in-toto+json", Signatures: []*protodsse.Signature{{Sig: made}},
			}},
		}
	}
	now := time.Now()
	ago := func(days int) time.Time { return now.AddDate(0, 0, -days).Add(time.Hour) }

	for name, tc := range map[string]struct {
		bundle *protobundle.Bundle
		parts  parts
		stamps bool // a timestamp is required
		want   reason.Code
		says   string
	}{
		"valid now":                                {signedBy(ago(1)), a.parts(nil), false, reason.None, ""},
		"expired, no timestamp":                    {signedBy(ago(30)), a.parts(stamper), false, reason.SignatureUntrusted, "certificate: valid from"},
		"expired, stamped when valid":              {signedBy(ago(30), ago(30).Add(time.Hour)), a.parts(stamper), false, reason.None, ""},
		"expired, stamped when valid, as required": {signedBy(ago(30), ago(30).Add(time.Hour)), a.parts(stamper), true, reason.None, ""},
		"expired, stamped too late":                {signedBy(ago(30), ago(2)), a.parts(stamper), false, reason.SignatureUntrusted, "certificate: valid from"},
		"expired, stamped by a stranger":           {signedBy(ago(30), ago(30).Add(time.Hour)), a.parts(nil), false, reason.SignatureUntrusted, "timestamp"},
		"not valid yet":                            {signedBy(ago(-30)), a.parts(nil), false, reason.SignatureUntrusted, "certificate: valid from"},
		"of another authority":                     {signedBy(ago(1)), newAuthority(t).parts(nil), false, reason.SignatureUntrusted, "not issued by an authority"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			judged(t, sigstore.Options{
				TrustedRoot: tc.parts.write(t), Identities: []sigstore.Identity{{Issuer: issuer, Subject: subject}},
				RequireLog: no(), RequireTimestamp: tc.stamps,
			}, encoded(t, tc.bundle), tc.want, tc.says)
		})
	}
}

// TestLogOfSecondKind: Rekor 2 promises no time, so an authority must have stamped.
func TestLogOfSecondKind(t *testing.T) {
	t.Parallel()
	v := newVirtual(t)
	content := statement(signed, sigstore.PredicateSign)
	e, err := v.AttestHashedRekordV2(subject, issuer, content)
	if err != nil {
		t.Fatal(err)
	}
	entries, err := e.TlogEntries()
	if err != nil {
		t.Fatal(err)
	}
	entry := entries[0].TransparencyLogEntry()
	kind := entry.GetKindVersion()
	made, err := e.SignatureContent()
	if err != nil {
		t.Fatal(err)
	}
	b := v.evidence(e)
	entry.KindVersion, entry.InclusionPromise = kind, nil
	b.VerificationMaterial.TlogEntries = []*protorekor.TransparencyLogEntry{entry}
	b.MediaType = "application/vnd.dev.sigstore.bundle.v0.3+json"
	b.Content = &protobundle.Bundle_DsseEnvelope{DsseEnvelope: &protodsse.Envelope{
		Payload: content, PayloadType: "application/vnd.in-toto+json", Signatures: []*protodsse.Signature{{Sig: made.Signature()}},
	}}
	judged(t, v.options(), encoded(t, b), reason.None, "")

	// Neither the entry's body nor its root hash is believed: the entry is made again
	// from the bundle, the root is the one in the checkpoint, which the log has signed.
	foreign, err := v.AttestHashedRekordV2(subject, issuer, content)
	if err != nil {
		t.Fatal(err)
	}
	others, err := foreign.TlogEntries()
	if err != nil {
		t.Fatal(err)
	}
	proof := entry.GetInclusionProof()
	checkpoint := proof.GetCheckpoint()
	proof.Checkpoint = others[0].TransparencyLogEntry().GetInclusionProof().GetCheckpoint()
	judged(t, v.options(), encoded(t, b), reason.SignatureInvalid, "transparency log")
	proof.Checkpoint = checkpoint
	b.VerificationMaterial.TimestampVerificationData = nil
	judged(t, v.options(), encoded(t, b), reason.SignatureUntrusted, "timestamp")
}

// TestOlderBundles: a bundle 0.1 of the manifest's bytes, with a mere promise of the log.
func TestOlderBundles(t *testing.T) {
	t.Parallel()
	v := newVirtual(t)
	manifest := []byte(`{"schemaVersion":2}`)
	e, err := v.SignAtTime(subject, issuer, manifest, soon())
	if err != nil {
		t.Fatal(err)
	}
	made, err := e.SignatureContent()
	if err != nil {
		t.Fatal(err)
	}
	b := v.evidence(e)
	b.MediaType = "application/vnd.dev.sigstore.bundle+json;version=0.1"
	b.Content = &protobundle.Bundle_MessageSignature{MessageSignature: &protocommon.MessageSignature{
		MessageDigest: &protocommon.HashOutput{Algorithm: protocommon.HashAlgorithm_SHA2_256, Digest: made.MessageSignatureContent().Digest()},
		Signature:     made.Signature(),
	}}
	verifier := load(t, v.options())
	if _, err := verifier.Verify(t.Context(), target(digest.FromBytes(manifest)), encoded(t, b)); err != nil {
		t.Errorf("a bundle 0.1: %v", err)
	}
	if _, err := verifier.Verify(t.Context(), target(signed), encoded(t, b)); reason.Of(err) != reason.SignatureInvalid {
		t.Errorf("of another manifest: %v", err)
	}
	for _, version := range []string{
		"application/vnd.dev.sigstore.bundle+json;version=0.2", "application/vnd.dev.sigstore.bundle.v0.3+json",
		"application/vnd.dev.sigstore.bundle.v0.4+json", "application/json",
	} {
		b.MediaType = version // which want a proof of inclusion, or are not known
		if _, err := verifier.Verify(t.Context(), target(digest.FromBytes(manifest)), encoded(t, b)); reason.Of(err) != reason.SignatureInvalid {
			t.Errorf("%s: %v, want %s", version, err, reason.SignatureInvalid)
		}
	}
}

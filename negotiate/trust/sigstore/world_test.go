package sigstore_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protodsse "github.com/sigstore/protobuf-specs/gen/pb-go/dsse"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/testing/ca"
	"github.com/sigstore/sigstore-go/pkg/tlog"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/referee-cri/referee/negotiate"
	"github.com/referee-cri/referee/negotiate/trust/sigstore"
)

// What is signed in most tests, by whom.
const (
	signed  digest.Digest = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	other   digest.Digest = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
	subject               = "release@team.example"
	issuer                = "https://accounts.example"
)

func target(d digest.Digest) negotiate.Target {
	return negotiate.Target{
		Repository: "registry.example/tiny",
		Descriptor: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: d, Size: 872},
	}
}

func load(t testing.TB, opts sigstore.Options) *sigstore.Verifier {
	t.Helper()
	v, err := sigstore.Load("release", opts)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func diff(want, got any) string { return cmp.Diff(want, got) }

func newECDSA(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// writeKey writes public keys into one file and returns its path.
func writeKey(t testing.TB, keys ...crypto.PublicKey) string {
	t.Helper()
	var content []byte
	for _, key := range keys {
		text, err := cryptoutils.MarshalPublicKeyToPEM(key)
		if err != nil {
			t.Fatal(err)
		}
		content = append(content, text...)
	}
	return write(t, "key.pub", content)
}

func write(t testing.TB, name string, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// statement is what cosign 3 signs.
func statement(d digest.Digest, predicateType string) []byte {
	return fmt.Appendf(nil, `{"_type":"https://in-toto.io/Statement/v1","subject":[{"digest":{%q:%q}}],"predicateType":%q,"predicate":{}}`,
		d.Algorithm(), d.Encoded(), predicateType)
}

// payload is what cosign 1 and 2 sign.
func payload(d digest.Digest) []byte {
	return fmt.Appendf(nil, `{"critical":{"identity":{"docker-reference":"registry.example/tiny"},"image":{"docker-manifest-digest":%q},"type":"cosign container image signature"},"optional":null}`, d)
}

// virtual is a whole Sigstore of one's own: Fulcio, Rekor and a timestamp authority.
type virtual struct {
	t testing.TB
	*ca.VirtualSigstore
}

func newVirtual(t testing.TB) *virtual {
	t.Helper()
	v, err := ca.NewVirtualSigstore()
	if err != nil {
		t.Fatal(err)
	}
	return &virtual{t, v}
}

// parts are what a trusted root says.
type parts struct {
	authorities []root.CertificateAuthority
	ct          map[string]*root.TransparencyLog
	stampers    []root.TimestampingAuthority
	logs        map[string]*root.TransparencyLog
}

// parts are those of the virtual Sigstore. Its certificates are in no certificate
// transparency log, so its root names none.
func (v *virtual) parts() parts {
	return parts{v.FulcioCertificateAuthorities(), nil, v.TimestampingAuthorities(), v.logs(v.RekorLogs())}
}

// logs gives logs the ids that entries have: the bytes, not their hexadecimal form.
func (v *virtual) logs(logs map[string]*root.TransparencyLog) map[string]*root.TransparencyLog {
	for id, log := range logs {
		raw, err := hex.DecodeString(id)
		if err != nil {
			v.t.Fatal(err)
		}
		log.ID = raw
	}
	return logs
}

// write writes a trusted_root.json and returns its path.
func (p parts) write(t testing.TB) string {
	t.Helper()
	trusted, err := root.NewTrustedRoot(root.TrustedRootMediaType01, p.authorities, p.ct, p.stampers, p.logs)
	if err != nil {
		t.Fatal(err)
	}
	content, err := json.Marshal(trusted)
	if err != nil {
		t.Fatal(err)
	}
	return write(t, "trusted_root.json", content)
}

// options trust the virtual Sigstore and the one who signs in most tests.
func (v *virtual) options() sigstore.Options {
	return sigstore.Options{
		TrustedRoot: v.parts().write(v.t),
		Identities:  []sigstore.Identity{{Issuer: issuer, Subject: subject}},
	}
}

// bundle signs a statement as cosign 3 does without a key, logged at a time.
func (v *virtual) bundle(content []byte, at time.Time) *protobundle.Bundle {
	v.t.Helper()
	e, err := v.AttestAtTime(subject, issuer, content, at, true)
	if err != nil {
		v.t.Fatal(err)
	}
	b := v.evidence(e)
	b.MediaType = "application/vnd.dev.sigstore.bundle.v0.3+json"
	made, err := e.SignatureContent()
	if err != nil {
		v.t.Fatal(err)
	}
	b.Content = &protobundle.Bundle_DsseEnvelope{DsseEnvelope: &protodsse.Envelope{
		Payload: content, PayloadType: made.EnvelopeContent().RawEnvelope().PayloadType,
		Signatures: []*protodsse.Signature{{Sig: made.Signature()}},
	}}
	return b
}

// evidence is all of a bundle but its content.
func (v *virtual) evidence(e *ca.TestEntity) *protobundle.Bundle {
	v.t.Helper()
	by, err := e.VerificationContent()
	if err != nil {
		v.t.Fatal(err)
	}
	entries, err := e.TlogEntries()
	if err != nil {
		v.t.Fatal(err)
	}
	stamps, err := e.Timestamps()
	if err != nil {
		v.t.Fatal(err)
	}
	m := &protobundle.VerificationMaterial{
		Content: &protobundle.VerificationMaterial_Certificate{
			Certificate: &protocommon.X509Certificate{RawBytes: by.Certificate().Raw},
		},
		TimestampVerificationData: &protobundle.TimestampVerificationData{},
	}
	for _, entry := range entries {
		m.TlogEntries = append(m.TlogEntries, v.completed(entry))
	}
	for _, stamp := range stamps {
		m.TimestampVerificationData.Rfc3161Timestamps = append(m.TimestampVerificationData.Rfc3161Timestamps,
			&protocommon.RFC3161SignedTimestamp{SignedTimestamp: stamp})
	}
	return &protobundle.Bundle{VerificationMaterial: m}
}

// completed is an entry with what the library that made it leaves out: its kind, and
// the log's promise.
func (v *virtual) completed(entry *tlog.Entry) *protorekor.TransparencyLogEntry {
	v.t.Helper()
	e := entry.TransparencyLogEntry()
	var body struct{ Kind, APIVersion string }
	if err := json.Unmarshal(e.GetCanonicalizedBody(), &body); err != nil {
		v.t.Fatal(err)
	}
	promise, err := v.RekorSignPayload(tlog.RekorPayload{
		Body: base64Of(e.GetCanonicalizedBody()), IntegratedTime: e.GetIntegratedTime(),
		LogIndex: e.GetLogIndex(), LogID: hex.EncodeToString(e.GetLogId().GetKeyId()),
	})
	if err != nil {
		v.t.Fatal(err)
	}
	e.KindVersion = &protorekor.KindVersion{Kind: body.Kind, Version: body.APIVersion}
	e.InclusionPromise = &protorekor.InclusionPromise{SignedEntryTimestamp: promise}
	return e
}

func base64Of(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

// encoded is a bundle as found in a registry.
func encoded(t testing.TB, b *protobundle.Bundle) negotiate.Signature {
	t.Helper()
	content, err := protojson.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	return negotiate.Signature{
		Kind: negotiate.SignatureBundle, Artifact: ocispec.Descriptor{Digest: digest.FromBytes(content)},
		MediaType: "application/vnd.dev.sigstore.bundle.v0.3+json", Content: content,
	}
}

// simple signs a payload as cosign 2 does without a key, logged at a time.
func (v *virtual) simple(content []byte, at time.Time) negotiate.Signature {
	v.t.Helper()
	e, err := v.SignAtTime(subject, issuer, content, at)
	if err != nil {
		v.t.Fatal(err)
	}
	b := v.evidence(e)
	made, err := e.SignatureContent()
	if err != nil {
		v.t.Fatal(err)
	}
	entry := b.GetVerificationMaterial().GetTlogEntries()[0]
	logged, err := json.Marshal(map[string]any{
		"SignedEntryTimestamp": entry.GetInclusionPromise().GetSignedEntryTimestamp(),
		"Payload": map[string]any{
			"body": entry.GetCanonicalizedBody(), "integratedTime": entry.GetIntegratedTime(),
			"logIndex": entry.GetLogIndex(), "logID": hex.EncodeToString(entry.GetLogId().GetKeyId()),
		},
	})
	if err != nil {
		v.t.Fatal(err)
	}
	stamped, err := json.Marshal(map[string]any{
		"SignedRFC3161Timestamp": b.GetVerificationMaterial().GetTimestampVerificationData().GetRfc3161Timestamps()[0].GetSignedTimestamp(),
	})
	if err != nil {
		v.t.Fatal(err)
	}
	return negotiate.Signature{
		Kind: negotiate.SignatureCosign, Artifact: ocispec.Descriptor{Digest: digest.FromBytes(content)},
		MediaType: "application/vnd.dev.cosign.simplesigning.v1+json", Content: content,
		Annotations: map[string]string{
			"dev.cosignproject.cosign/signature":   base64Of(made.Signature()),
			"dev.sigstore.cosign/certificate":      string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: b.GetVerificationMaterial().GetCertificate().GetRawBytes()})),
			"dev.sigstore.cosign/bundle":           string(logged),
			"dev.sigstore.cosign/rfc3161timestamp": string(stamped),
		},
	}
}

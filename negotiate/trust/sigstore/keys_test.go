package sigstore_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"fmt"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/negotiate"
	"github.com/referee-cri/referee/negotiate/trust/sigstore"
)

// The signatures here are made with the standard library and text alone, from
// cosign's and DSSE's specifications: a second opinion beside cosign's own.

// dsse is what a DSSE envelope's signature is over (DSSE protocol v1, "PAE").
func dsse(payload []byte) []byte {
	const payloadType = "application/vnd.in-toto+json"
	return fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(payloadType), payloadType, len(payload), payload)
}

func sign(t testing.TB, key crypto.Signer, message []byte, hash crypto.Hash) []byte {
	t.Helper()
	var sum []byte
	switch hash {
	case crypto.SHA256:
		d := sha256.Sum256(message)
		sum = d[:]
	case crypto.SHA384:
		d := sha512.Sum384(message)
		sum = d[:]
	case crypto.SHA512:
		d := sha512.Sum512(message)
		sum = d[:]
	default:
		sum = message
	}
	made, err := key.Sign(rand.Reader, sum, hash)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

func hintOf(t testing.TB, key crypto.Signer) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(der)
	return base64Of(sum[:])
}

func bundleText(hint, content string) negotiate.Signature {
	text := fmt.Appendf(nil, `{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","verificationMaterial":{"publicKey":{"hint":%q}},%s}`, hint, content)
	return negotiate.Signature{
		Kind: negotiate.SignatureBundle, Artifact: ocispec.Descriptor{Digest: digest.FromBytes(text)},
		MediaType: "application/vnd.dev.sigstore.bundle.v0.3+json", Content: text,
	}
}

func envelope(hint string, payload, made []byte) negotiate.Signature {
	return bundleText(hint, fmt.Sprintf(`"dsseEnvelope":{"payload":%q,"payloadType":"application/vnd.in-toto+json","signatures":[{"sig":%q}]}`,
		base64Of(payload), base64Of(made)))
}

// message is a bundle of a signature over a manifest's bytes.
func message(hint string, sum, made []byte) negotiate.Signature {
	return bundleText(hint, fmt.Sprintf(`"messageSignature":{"messageDigest":{"algorithm":"SHA2_256","digest":%q},"signature":%q}`,
		base64Of(sum), base64Of(made)))
}

func simple(payload, made []byte) negotiate.Signature {
	return negotiate.Signature{
		Kind: negotiate.SignatureCosign, Artifact: ocispec.Descriptor{Digest: digest.FromBytes(payload)},
		MediaType: "application/vnd.dev.cosign.simplesigning.v1+json", Content: payload,
		Annotations: map[string]string{"dev.cosignproject.cosign/signature": base64Of(made)},
	}
}

func TestKinds(t *testing.T) {
	t.Parallel()
	on := func(c elliptic.Curve) crypto.Signer {
		key, err := ecdsa.GenerateKey(c, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		key  crypto.Signer
		hash crypto.Hash
	}{
		"P-256":               {on(elliptic.P256()), crypto.SHA256},
		"P-384":               {on(elliptic.P384()), crypto.SHA384},
		"P-384 with SHA-256":  {on(elliptic.P384()), crypto.SHA256},
		"P-521":               {on(elliptic.P521()), crypto.SHA512},
		"P-521 with SHA-256":  {on(elliptic.P521()), crypto.SHA256},
		"RSA, PKCS #1 v1.5":   {rsaKey, crypto.SHA256},
		"Ed25519":             {edKey, 0},
		"Ed25519ph (SHA-512)": {edKey, crypto.SHA512},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := load(t, sigstore.Options{Keys: []string{writeKey(t, newECDSA(t).Public(), tc.key.Public())}})
			content, stated := payload(signed), statement(signed, sigstore.PredicateSign)
			for kind, s := range map[string]negotiate.Signature{
				"simple signing": simple(content, sign(t, tc.key, content, tc.hash)),
				"envelope":       envelope(hintOf(t, tc.key), stated, sign(t, tc.key, dsse(stated), tc.hash)),
				"no hint":        envelope("", stated, sign(t, tc.key, dsse(stated), tc.hash)),
			} {
				if _, err := v.Verify(t.Context(), target(signed), s); err != nil {
					t.Errorf("%s: %v", kind, err)
				}
			}
		})
	}
}

func TestSignatureOfManifest(t *testing.T) {
	t.Parallel()
	manifest := []byte(`{"schemaVersion":2}`)
	sum := sha256.Sum256(manifest)
	of := target(digest.FromBytes(manifest))
	key := newECDSA(t)
	v := load(t, sigstore.Options{Keys: []string{writeKey(t, key.Public())}})

	good := message(hintOf(t, key), sum[:], sign(t, key, manifest, crypto.SHA256))
	if _, err := v.Verify(t.Context(), of, good); err != nil {
		t.Errorf("a signature of the manifest: %v", err)
	}
	if _, err := v.Verify(t.Context(), target(signed), good); reason.Of(err) != reason.SignatureInvalid {
		t.Errorf("a signature of another manifest: %v", err)
	}
	// The digest stands outside the signature: changing it must not help.
	claimed := sha256.Sum256([]byte("another"))
	lie := message(hintOf(t, key), claimed[:], sign(t, key, manifest, crypto.SHA256))
	if _, err := v.Verify(t.Context(), target(digest.FromString("another")), lie); reason.Of(err) != reason.SignatureInvalid {
		t.Errorf("a signature whose digest was changed: %v", err)
	}
}

// Pure Ed25519 signs bytes, which are not there to verify. A signature of no bytes
// at all must not pass for one of every manifest.
func TestEd25519OfNothing(t *testing.T) {
	t.Parallel()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	v := load(t, sigstore.Options{Keys: []string{writeKey(t, key.Public())}})
	sum := sha256.Sum256([]byte("anything"))
	s := message(hintOf(t, key), sum[:], sign(t, key, nil, 0))
	if _, err := v.Verify(t.Context(), target(digest.FromString("anything")), s); reason.Of(err) != reason.SignatureInvalid {
		t.Errorf("Verify: %v, want %s", err, reason.SignatureInvalid)
	}
}

func TestKeySignatures(t *testing.T) {
	t.Parallel()
	key, stranger := newECDSA(t), newECDSA(t)
	content, stated := payload(signed), statement(signed, sigstore.PredicateSign)
	hint := hintOf(t, key)
	made := sign(t, key, dsse(stated), crypto.SHA256)
	v := newVirtual(t)
	keys := sigstore.Options{Keys: []string{writeKey(t, key.Public())}}
	rooted := v.options()
	rooted.Keys = keys.Keys
	unlogged := rooted
	unlogged.RequireLog = no()
	stamped := unlogged
	stamped.RequireTimestamp = true

	for name, tc := range map[string]struct {
		opts      sigstore.Options
		signature negotiate.Signature
		want      reason.Code
		says      string
	}{
		"a changed statement of a trusted key": {
			keys, envelope(hint, append(stated, ' '), made), reason.SignatureInvalid, "did not sign these bytes",
		},
		"a stranger under a trusted key's name": {
			keys, envelope(hint, stated, sign(t, stranger, dsse(stated), crypto.SHA256)), reason.SignatureInvalid, "did not sign these bytes",
		},
		"a stranger under his own name": {
			keys, envelope(hintOf(t, stranger), stated, sign(t, stranger, dsse(stated), crypto.SHA256)), reason.SignatureUntrusted, "none of the 1 trusted keys",
		},
		"a changed payload": {
			keys, simple(append(content, ' '), sign(t, key, content, crypto.SHA256)), reason.SignatureUntrusted, "none of the 1 trusted keys",
		},
		"a trusted key, where a trusted root wants a log": {
			rooted, envelope(hint, stated, made), reason.SignatureUntrusted, "transparency log: there is no entry",
		},
		"a trusted key, where a timestamp is wanted": {
			stamped, envelope(hint, stated, made), reason.SignatureUntrusted, "timestamp",
		},
		"a trusted key beside identities, no log wanted": {unlogged, envelope(hint, stated, made), reason.None, ""},
		"a key, where only identities are trusted": {
			v.options(), envelope(hint, stated, made), reason.SignatureUntrusted, "only certificates are trusted",
		},
		"no signature beside the payload": {
			keys, negotiate.Signature{Kind: negotiate.SignatureCosign, Content: content}, reason.SignatureInvalid, "no annotation",
		},
		"garbage": {
			keys, negotiate.Signature{Kind: negotiate.SignatureBundle, Content: []byte("\x00\xff{")}, reason.SignatureInvalid, "read bundle",
		},
		"nothing": {keys, negotiate.Signature{Kind: negotiate.SignatureBundle}, reason.SignatureInvalid, "read bundle"},
		"a giant": {
			keys, negotiate.Signature{Kind: negotiate.SignatureBundle, Content: make([]byte, 1<<20+1)}, reason.SignatureInvalid, "larger than",
		},
		"a giant beside the payload": {
			keys, negotiate.Signature{Kind: negotiate.SignatureCosign, Content: content, Annotations: map[string]string{
				"dev.cosignproject.cosign/signature": strings.Repeat("A", 1<<20),
			}}, reason.SignatureInvalid, "larger than",
		},
		"another project's": {keys, negotiate.Signature{Kind: negotiate.SignatureNotation, Content: content}, reason.SignatureInvalid, "kind"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := load(t, tc.opts).Verify(t.Context(), target(signed), tc.signature)
			if got := reason.Of(err); got != tc.want {
				t.Fatalf("Verify: %v (%s), want %q", err, got, tc.want)
			}
			if err != nil && !strings.Contains(err.Error(), tc.says) {
				t.Errorf("Verify: %v, want it to say %q", err, tc.says)
			}
		})
	}
}

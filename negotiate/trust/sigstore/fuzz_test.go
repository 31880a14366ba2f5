package sigstore_test

import (
	"crypto"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/negotiate"
	"github.com/referee-cri/referee/negotiate/trust/sigstore"
)

// FuzzVerify: whatever a registry holds, the answer is one of the two refusals, or
// yes to a signature of the target and of nothing else.
func FuzzVerify(f *testing.F) {
	v, key := newVirtual(f), newECDSA(f)
	opts := v.options()
	opts.Keys, opts.RequireLog = []string{writeKey(f, key.Public())}, no()
	verifier := load(f, opts)

	add := func(s negotiate.Signature) {
		f.Add(s.Kind == negotiate.SignatureBundle, s.Content,
			s.Annotations["dev.cosignproject.cosign/signature"], s.Annotations["dev.sigstore.cosign/certificate"],
			s.Annotations["dev.sigstore.cosign/bundle"], s.Annotations["dev.sigstore.cosign/rfc3161timestamp"])
	}
	content, stated := payload(signed), statement(signed, sigstore.PredicateSign)
	add(encoded(f, v.bundle(stated, soon())))
	add(encoded(f, v.bundle(statement(signed, "https://spdx.dev/Document"), soon())))
	add(v.simple(content, soon()))
	add(simple(content, sign(f, key, content, crypto.SHA256)))
	add(envelope(hintOf(f, key), stated, sign(f, key, dsse(stated), crypto.SHA256)))
	add(bundleText("", `"messageSignature":{}`))
	add(bundleText("", `"messageSignature":{"messageDigest":{"algorithm":"SHA2_256","digest":"qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqo="},"signature":""}`))
	add(bundleText("", `"dsseEnvelope":{}`))
	add(negotiate.Signature{Kind: negotiate.SignatureBundle, Content: []byte(`{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","verificationMaterial":{"certificate":{},"tlogEntries":[{}]},"dsseEnvelope":{}}`)})
	add(negotiate.Signature{Kind: negotiate.SignatureCosign, Content: []byte(`null`), Annotations: map[string]string{
		"dev.cosignproject.cosign/signature": "AA==", "dev.sigstore.cosign/bundle": `{"Payload":{"body":"e30="}}`,
	}})

	f.Fuzz(func(t *testing.T, bundle bool, content []byte, made, certificate, logged, stamp string) {
		kind := negotiate.SignatureCosign
		if bundle {
			kind = negotiate.SignatureBundle
		}
		s := negotiate.Signature{
			Kind: kind, Artifact: ocispec.Descriptor{Digest: other}, Content: content,
			Annotations: map[string]string{
				"dev.cosignproject.cosign/signature": made, "dev.sigstore.cosign/certificate": certificate,
				"dev.sigstore.cosign/bundle": logged, "dev.sigstore.cosign/rfc3161timestamp": stamp,
			},
		}
		if _, err := verifier.Verify(t.Context(), target(signed), s); err != nil {
			if code := reason.Of(err); code != reason.SignatureInvalid && code != reason.SignatureUntrusted {
				t.Errorf("Verify: %v (%s)", err, code)
			}
		}
		if signer, err := verifier.Verify(t.Context(), target(other), s); err == nil {
			t.Errorf("nobody has signed %s, but %s is said to have", other, signer.Identity)
		}
	})
}

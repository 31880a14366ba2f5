package negotiate

import (
	"context"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// SignatureKind is a scheme of signatures in registries.
type SignatureKind string

// The kinds.
const (
	// SignatureNotation: a JWS or COSE envelope of the Notary Project, the only
	// layer of a referrer of type application/vnd.cncf.notary.signature.
	SignatureNotation SignatureKind = "notation"
	// SignatureCosign: cosign's simple signing. Content is the signed payload, the
	// signature stands in Annotations. Under the tag sha256-<hex>.sig, or a
	// referrer of type application/vnd.dev.cosign.artifact.sig.v1+json.
	SignatureCosign SignatureKind = "cosign"
	// SignatureBundle: a Sigstore bundle, the only layer of a referrer of type
	// application/vnd.dev.sigstore.bundle.v0.3+json.
	SignatureBundle SignatureKind = "sigstore-bundle"
)

// Signature is a signature found attached to something, not judged yet.
type Signature struct {
	Kind      SignatureKind      `json:"kind"`
	Artifact  ocispec.Descriptor `json:"artifact"`   // the manifest that carries it
	MediaType string             `json:"media_type"` // of Content
	Content   []byte             `json:"content"`    // the layer's exact bytes
	// Annotations are those of the layer: cosign keeps signature, certificate and
	// log entry there.
	Annotations map[string]string `json:"annotations,omitempty"`
}

// Target is what a signature should be of.
type Target struct {
	Repository string             `json:"repository"` // "registry.example/team/app"
	Descriptor ocispec.Descriptor `json:"descriptor"` // media type, digest and size
}

// Verifier decides whether somebody this node trusts has signed something. It is
// one trust store of the operator's configuration.
//
// Implementations are safe for concurrent use, need no network, and never panic
// on what a registry may have written.
type Verifier interface {
	// Name is the trust store's name in the configuration.
	Name() string
	// Accepts tells whether signatures of this kind can count here at all.
	Accepts(kind SignatureKind) bool
	// Verify returns who signed target. Its error carries SignatureUntrusted where
	// the signature may be right but its signer is not trusted for this
	// repository, has expired or was revoked; SignatureInvalid where it is broken
	// or is of something else.
	Verify(ctx context.Context, target Target, signature Signature) (Signer, error)
}

// Signer is who vouches for a form, and for what exactly.
type Signer struct {
	Trust     string        `json:"trust"` // the verifier's name
	Kind      SignatureKind `json:"kind"`
	Identity  string        `json:"identity"`  // for people: a certificate's subject, a key's fingerprint
	Target    Target        `json:"target"`    // what was signed
	Signature digest.Digest `json:"signature"` // the manifest that carries the signature
}

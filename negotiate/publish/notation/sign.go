package notation

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/notaryproject/notation-core-go/signature/cose"
	"github.com/notaryproject/notation-core-go/signature/jws"
	notationgo "github.com/notaryproject/notation-go"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry/remote"

	"github.com/referee-cri/referee/negotiate/publish"
)

// ArtifactType is the type of a signature's manifest, the media type of its empty
// config (Notary Project signature specification 1.0, "Storage").
const ArtifactType = "application/vnd.cncf.notary.signature"

// The envelopes.
const (
	EnvelopeJWS  = "jws"
	EnvelopeCOSE = "cose"
)

// agent is the signing agent that envelopes name, for people.
const agent = "referee"

// Options says with what to sign, and how. Either KeyFile and CertFile are given
// or Plugin.
type Options struct {
	KeyFile  string  // private key, PEM, not encrypted: RSA 2048, 3072, 4096 or ECDSA P-256, P-384, P-521
	CertFile string  // its certificate chain, PEM, the leaf first, the root included
	Plugin   *Plugin // signs instead of a key from a file

	Envelope string        // EnvelopeJWS or EnvelopeCOSE; empty: JWS
	Expiry   time.Duration // the signature counts so long, in whole seconds; 0: without end
	TSA      *TSA          // countersigns, so that the signature outlives the certificate; nil: nobody
}

// Plugin is a notation signing plugin (Notary Project plugin specification 1.0):
// an executable <Dir>/<Name>/notation-<Name>.
type Plugin struct {
	Name   string
	Dir    string // empty: where the notation command keeps its plugins
	KeyID  string // of the key, as the plugin knows it
	Config map[string]string
}

// TSA is a timestamping authority (RFC 3161).
type TSA struct {
	URL       string // http or https
	RootsFile string // PEM: the roots that its certificate must lead to
}

// Sign signs subject, which is in the repository, and attaches the signature to
// it. It returns the descriptor of the signature's manifest. What is signed is what
// the registry says of subject's digest: it is an error if that differs from
// subject in media type or size.
func Sign(ctx context.Context, repo *remote.Repository, subject ocispec.Descriptor, opts Options) (ocispec.Descriptor, error) {
	signed := notationgo.SignOptions{ArtifactReference: subject.Digest.String()}
	var err error
	if signed.SignatureMediaType, err = envelope(opts.Envelope); err != nil {
		return ocispec.Descriptor{}, err
	}
	signed.ExpiryDuration, signed.SigningAgent = opts.Expiry, agent
	if opts.TSA != nil {
		if signed.Timestamper, signed.TSARootCAs, err = opts.TSA.open(); err != nil {
			return ocispec.Descriptor{}, fmt.Errorf("use timestamping authority %s: %w", opts.TSA.URL, err)
		}
	}
	signer, err := opts.signer(ctx)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	store := &store{repo: repo, subject: subject}
	if _, err := notationgo.Sign(ctx, signer, store, signed); err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("sign %s: %w", subject.Digest, err)
	}
	return store.pushed, nil
}

func envelope(name string) (mediaType string, err error) {
	switch name {
	case "", EnvelopeJWS:
		return jws.MediaTypeEnvelope, nil
	case EnvelopeCOSE:
		return cose.MediaTypeEnvelope, nil
	default:
		return "", fmt.Errorf("envelope %q is neither %s nor %s", name, EnvelopeJWS, EnvelopeCOSE)
	}
}

// store is the repository as notation-go sees it while it signs one subject.
type store struct {
	repo    *remote.Repository
	subject ocispec.Descriptor
	pushed  ocispec.Descriptor // the signature's manifest
}

// Resolve makes sure that the registry agrees about what is signed: a signature
// of another media type or size than readers are served would never verify.
func (s *store) Resolve(ctx context.Context, reference string) (ocispec.Descriptor, error) {
	found, err := s.repo.Resolve(ctx, reference)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("ask the registry for %s: %w", reference, err)
	}
	if found.Digest != s.subject.Digest || found.Size != s.subject.Size || found.MediaType != s.subject.MediaType {
		return ocispec.Descriptor{}, fmt.Errorf("the registry serves a %s of %d bytes, not a %s of %d",
			found.MediaType, found.Size, s.subject.MediaType, s.subject.Size)
	}
	return ocispec.Descriptor{MediaType: found.MediaType, Digest: found.Digest, Size: found.Size}, nil
}

// PushSignature attaches an envelope in a manifest of the signature
// specification's shape.
func (s *store) PushSignature(
	ctx context.Context, mediaType string, blob []byte, subject ocispec.Descriptor, annotations map[string]string,
) (envelope, manifest ocispec.Descriptor, err error) {
	config := []byte("{}")
	envelope = describe(mediaType, blob)
	s.pushed, err = publish.Attach(ctx, s.repo, ocispec.Manifest{
		Config: describe(ArtifactType, config), Layers: []ocispec.Descriptor{envelope}, Subject: &subject, Annotations: annotations,
	}, config, blob)
	return envelope, s.pushed, err
}

func describe(mediaType string, content []byte) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(content), Size: int64(len(content))}
}

// errReads answers those parts of notation-go's repository that only verifiers use.
var errReads = errors.New("signing reads no signatures")

// ListSignatures is for verifiers.
func (s *store) ListSignatures(context.Context, ocispec.Descriptor, func([]ocispec.Descriptor) error) error {
	return errReads
}

// FetchSignatureBlob is for verifiers.
func (s *store) FetchSignatureBlob(context.Context, ocispec.Descriptor) ([]byte, ocispec.Descriptor, error) {
	return nil, ocispec.Descriptor{}, errReads
}

package negotiate

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/internal/registry"
)

// Media types of signatures: artifact types, and that of cosign's layers.
const (
	artifactTypeNotation    = "application/vnd.cncf.notary.signature"
	artifactTypeBundle      = "application/vnd.dev.sigstore.bundle.v0.3+json"
	artifactTypeCosign      = "application/vnd.dev.cosign.artifact.sig.v1+json"
	mediaTypeSimpleSigning  = "application/vnd.dev.cosign.simplesigning.v1+json"
	cosignTagSuffix         = ".sig"
	maxSignatureSize        = 1 << 20 // a bundle with certificates and a log entry is some 10 KB
	maxSignaturesOfManifest = 8       // cosign adds a layer for each signer
)

// signatureKind says by its artifact type what kind of signature an artifact is.
func signatureKind(artifactType string) SignatureKind {
	switch artifactType {
	case artifactTypeNotation:
		return SignatureNotation
	case artifactTypeBundle:
		return SignatureBundle
	case artifactTypeCosign:
		return SignatureCosign
	default:
		return ""
	}
}

// gathered is what was found signed on one digest.
type gathered struct {
	signatures []Signature
	strange    SignatureKind // a kind that was there and that no verifier accepts
	problem    error
}

// signaturesOf gathers the signatures of d that some verifier of the rules
// accepts. It asks once; later callers get the same answer.
func (j *judge) signaturesOf(ctx context.Context, d ocispec.Descriptor) gathered {
	once, _ := j.signatures.LoadOrStore(d.Digest, sync.OnceValue(func() gathered { return j.gather(ctx, d) }))
	return once.(func() gathered)() //nolint:errcheck,forcetypeassert // only this function stores
}

func (j *judge) gather(ctx context.Context, d ocispec.Descriptor) gathered {
	var byTag listing
	var beside sync.WaitGroup // waited for below
	if j.accepted(SignatureCosign) {
		beside.Go(func() { byTag = j.finder.cosignTag(ctx, d.Digest) })
	}
	list := j.attached(ctx, d.Digest)
	beside.Wait()
	list = listing{entries: slices.Clone(list.entries), problem: list.problem} // the list may be shared
	list.merge(byTag)

	var g gathered
	var wanted []entry
	for _, e := range list.entries {
		kind := signatureKind(e.artifactType)
		switch {
		case kind == "" && !slices.Contains(namelessTypes, e.artifactType):
		case kind != "" && !j.accepted(kind):
			g.strange = kind
		case len(wanted) < maxFetches:
			wanted = append(wanted, e)
		}
	}
	found, problems := make([][]Signature, len(wanted)), make([]error, len(wanted))
	var fetches sync.WaitGroup // waited for below
	for i, e := range wanted {
		fetches.Go(func() { found[i], problems[i] = j.read(ctx, e, d.Digest) })
	}
	fetches.Wait()
	g.signatures = slices.Concat(found...)
	g.problem = errors.Join(append(problems, list.problem)...)
	return g
}

func (j *judge) accepted(kind SignatureKind) bool {
	return slices.ContainsFunc(j.rules.Verifiers, func(v Verifier) bool { return v.Accepts(kind) })
}

// read fetches one artifact that may hold signatures of subject, and these.
func (j *judge) read(ctx context.Context, e entry, subject digest.Digest) ([]Signature, error) {
	m, err := j.fetch(ctx, e.descriptor())
	if err != nil {
		return nil, err
	}
	kind := signatureKind(m.ArtifactType)
	if e.found == FoundCosignTag {
		kind = SignatureCosign
	} else if m.Subject == nil || m.Subject.Digest != subject {
		return nil, reason.Errorf(reason.SubjectMismatch, "signature %s is not attached to %s", e.digest, subject)
	}
	if !j.accepted(kind) {
		return nil, nil
	}
	layers := m.Files
	if kind == SignatureCosign {
		layers = slices.DeleteFunc(slices.Clone(layers), func(d ocispec.Descriptor) bool { return d.MediaType != mediaTypeSimpleSigning })
	} else if len(layers) != 1 {
		return nil, reason.Errorf(reason.SignatureInvalid, "signature %s has %d layers, not one", e.digest, len(layers))
	}
	var found []Signature
	for _, layer := range layers[:min(len(layers), maxSignaturesOfManifest)] {
		content, err := j.fetchBlob(ctx, layer)
		if err != nil {
			return found, err
		}
		found = append(found, Signature{
			Kind: kind, Artifact: m.Descriptor, MediaType: layer.MediaType, Content: content, Annotations: layer.Annotations,
		})
	}
	return found, nil
}

// fetchBlob gets a small blob of the repository.
func (j *judge) fetchBlob(ctx context.Context, d ocispec.Descriptor) ([]byte, error) {
	key := artifactKey{j.repo.Name(), d.Digest}
	if content, known := j.n.artifacts.get(key); known && int64(len(content)) == d.Size {
		return content, nil
	}
	a, err := getVerified(ctx, j.repo, d, maxSignatureSize, registry.Request{
		Path: "blobs/" + d.Digest.String(), Capability: registry.Pull,
	})
	if err != nil {
		return nil, err
	}
	j.n.artifacts.put(key, a.body, len(a.body), artifactTTL)
	return a.body, nil
}

// cosignTag looks for the manifest that cosign up to version 2 keeps signatures
// of subject in, under a tag made of its digest.
func (f *finder) cosignTag(ctx context.Context, subject digest.Digest) listing {
	key := listKey{f.repo.Name(), subject, FoundCosignTag}
	return f.remember(key, func() listing {
		a, err := get(ctx, f.repo, registry.Request{
			Path:   "manifests/" + fallbackTag(subject) + cosignTagSuffix,
			Header: http.Header{"Accept": {acceptImage}}, Capability: registry.Resolve,
		}, maxManifestSize)
		if code, _, _ := status(err); code == http.StatusNotFound || code == http.StatusBadRequest {
			return listing{}
		}
		if err != nil {
			return listing{problem: err}
		}
		m, err := DecodeManifest(a.mediaType, a.body)
		if err != nil || !isImage(m.Descriptor.MediaType) {
			return listing{} // somebody's, not cosign's
		}
		f.n.artifacts.put(artifactKey{f.repo.Name(), m.Descriptor.Digest}, a.body, len(a.body), artifactTTL)
		return listing{entries: []entry{{
			mediaType: m.Descriptor.MediaType, digest: m.Descriptor.Digest, size: m.Descriptor.Size,
			artifactType: artifactTypeCosign, created: created(m.Annotations), found: FoundCosignTag,
		}}}
	})
}

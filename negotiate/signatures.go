package negotiate

import (
	"cmp"
	"context"
	"net/http"
	"slices"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/zap"

	"github.com/referee-cri/referee/internal/contain"
	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/internal/registry"
)

// Media types of signatures: artifact types, and that of cosign's layers.
const (
	artifactTypeNotation   = "application/vnd.cncf.notary.signature"
	artifactTypeBundle     = "application/vnd.dev.sigstore.bundle.v0.3+json"
	artifactTypeCosign     = "application/vnd.dev.cosign.artifact.sig.v1+json"
	mediaTypeSimpleSigning = "application/vnd.dev.cosign.simplesigning.v1+json"
	cosignTagSuffix        = ".sig"
)

// Bounds on what signatures of one manifest may cost.
const (
	maxSignatureSize     = 256 << 10 // bytes; a bundle with certificates and a log entry is some 10 KB
	maxSignatureManifest = 512 << 10 // bytes; cosign's holds some 8 KB for each signer
	maxSignatures        = 16
	maxLayersOfSignature = 8 // cosign adds one for each signer, the newest last
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

// gather fetches the manifests that may carry signatures of d side by side, then
// their layers.
func (j *judge) gather(ctx context.Context, d ocispec.Descriptor) gathered {
	var byTag listing
	var beside sync.WaitGroup // waited for below
	if j.accepted(SignatureCosign) {
		beside.Go(func() {
			_ = contain.Panic(j.n.log, "looking for a signature's tag", func() error {
				byTag = j.finder.cosignTag(ctx, d.Digest)
				return nil
			})
		})
	}
	list := j.attached(ctx, d.Digest)
	beside.Wait()

	wanted, strange := j.carriers(slices.Concat(byTag.entries, list.entries))
	carriers, unopened := sideBySide(j.n.log, wanted, func(e entry) (carrier, error) { return j.open(ctx, e, d.Digest) })
	var unread []signatureLayer
	for _, c := range carriers {
		if c.kind != "" && !j.accepted(c.kind) {
			strange = c.kind
			continue
		}
		unread = append(unread, c.layers...)
	}
	unread = unread[:min(len(unread), maxSignatures)]
	signatures, unfetched := sideBySide(j.n.log, unread, func(l signatureLayer) (Signature, error) { return j.read(ctx, l) })
	return gathered{signatures, strange, cmp.Or(list.problem, byTag.problem, unopened, unfetched)}
}

func (j *judge) accepted(kind SignatureKind) bool {
	return slices.ContainsFunc(j.rules.Verifiers, func(v Verifier) bool { return v.Accepts(kind) })
}

// carriers picks the entries that may carry a signature that counts: so many of
// those that say so, and so many of those that do not say what they are. strange
// is a kind that was there and does not count.
func (j *judge) carriers(entries []entry) (wanted []entry, strange SignatureKind) {
	var named, nameless []entry
	for _, e := range entries {
		kind := signatureKind(e.artifactType)
		switch {
		case kind == "" && slices.Contains(namelessTypes, e.artifactType):
			nameless = append(nameless, e)
		case kind == "":
		case j.accepted(kind):
			named = append(named, e)
		default:
			strange = kind
		}
	}
	return slices.Concat(named[:min(len(named), maxFetches)], nameless[:min(len(nameless), maxFetches)]), strange
}

// carrier is a manifest that carries signatures; its kind is empty if it proves
// to be something else.
type carrier struct {
	kind   SignatureKind
	layers []signatureLayer
}

// signatureLayer is a signature without its content, and where that is.
type signatureLayer struct {
	Signature
	blob ocispec.Descriptor
}

// open fetches one manifest that may carry signatures of subject.
func (j *judge) open(ctx context.Context, e entry, subject digest.Digest) (carrier, error) {
	m, err := j.finder.smallManifest(ctx, e)
	if err != nil {
		return carrier{}, err
	}
	m.Descriptor.Digest = e.digest
	c := carrier{kind: signatureKind(m.ArtifactType)}
	switch {
	case e.found == FoundCosignTag:
		c.kind = SignatureCosign // the tag binds it
	case c.kind == "":
		return c, nil
	case m.Subject == nil || m.Subject.Digest != subject:
		return c, reason.Errorf(reason.SubjectMismatch, "signature %s is not attached to %s", e.digest, subject)
	}
	layers := m.Files
	if c.kind == SignatureCosign {
		layers = slices.DeleteFunc(slices.Clone(layers), func(d ocispec.Descriptor) bool { return d.MediaType != mediaTypeSimpleSigning })
		layers = layers[max(0, len(layers)-maxLayersOfSignature):]
	} else if len(layers) != 1 {
		return c, reason.Errorf(reason.SignatureInvalid, "signature %s has %d layers, not one", e.digest, len(layers))
	}
	for _, layer := range layers {
		c.layers = append(c.layers, signatureLayer{
			Signature{Kind: c.kind, Artifact: m.Descriptor, MediaType: layer.MediaType, Annotations: layer.Annotations}, layer,
		})
	}
	return c, nil
}

// read fetches the content of a signature.
func (j *judge) read(ctx context.Context, l signatureLayer) (Signature, error) {
	content, err := j.finder.fetchSmall(ctx, l.blob, maxSignatureSize, registry.Request{
		Path: "blobs/" + l.blob.Digest.String(), Capability: registry.Pull,
	})
	l.Content = content
	return l.Signature, err
}

// sideBySide calls f for every item, of which there are few, at the same time. It
// returns what succeeded, in the order of the items, and the first error.
func sideBySide[T, R any](log *zap.Logger, items []T, f func(T) (R, error)) (done []R, problem error) {
	results, problems := make([]R, len(items)), make([]error, len(items))
	var all sync.WaitGroup // waited for below
	for i, item := range items {
		all.Go(func() {
			problems[i] = contain.Panic(log, "reading a signature", func() (err error) {
				results[i], err = f(item)
				return err
			})
		})
	}
	all.Wait()
	for i, err := range problems {
		if err == nil {
			done = append(done, results[i])
		}
	}
	return done, cmp.Or(problems...)
}

// fetchSmall gets what d describes, which may not be larger than limit.
func (f *finder) fetchSmall(ctx context.Context, d ocispec.Descriptor, limit int64, req registry.Request) ([]byte, error) {
	key := artifactKey{f.repo.Name(), d.Digest}
	if content, known := f.n.artifacts.get(key); known && int64(len(content)) == d.Size {
		return content, nil
	}
	a, err := getVerified(ctx, f.repo, d, limit, req)
	if err != nil {
		return nil, err
	}
	f.n.artifacts.put(key, a.body, len(a.body), artifactTTL)
	return a.body, nil
}

// smallManifest gets the manifest of something small that is attached.
func (f *finder) smallManifest(ctx context.Context, e entry) (*Manifest, error) {
	content, err := f.fetchSmall(ctx, e.descriptor(), maxSignatureManifest, registry.Request{
		Path: "manifests/" + e.digest.String(), Header: http.Header{"Accept": {acceptArtifact}}, Capability: registry.Pull,
	})
	if err != nil {
		return nil, err
	}
	return DecodeManifest(e.mediaType, content)
}

// cosignTag looks for the manifest that cosign up to version 2 keeps signatures
// of subject in, under a tag made of its digest.
func (f *finder) cosignTag(ctx context.Context, subject digest.Digest) listing {
	key := listKey{repository: f.repo.Name(), subject: subject, found: FoundCosignTag}
	return f.remember(key, func() listing {
		a, err := get(ctx, f.repo, registry.Request{
			Path:   "manifests/" + fallbackTag(subject) + cosignTagSuffix,
			Header: http.Header{"Accept": {acceptImage}}, Capability: registry.Resolve,
		}, maxSignatureManifest)
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

package publish

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry/remote"
)

// Attach pushes a small artifact, such as a signature, and has it listed among the
// referrers of manifest.Subject, which is in the repository already. blobs are the
// contents of the manifest's config and layers, in any order. It returns the
// descriptor of the pushed manifest, whose schema version and media type Attach
// fills in; equal arguments give equal bytes, and what exists is not sent again.
func Attach(ctx context.Context, repo *remote.Repository, manifest ocispec.Manifest, blobs ...[]byte) (ocispec.Descriptor, error) {
	var needed []Blob
	for _, d := range append([]ocispec.Descriptor{manifest.Config}, manifest.Layers...) {
		i := slices.IndexFunc(blobs, func(b []byte) bool {
			return int64(len(b)) == d.Size && digest.FromBytes(b) == d.Digest
		})
		if i < 0 {
			return ocispec.Descriptor{}, fmt.Errorf("push blob %s: its content is not given", d.Digest)
		}
		needed = append(needed, BytesBlob(d, blobs[i]))
	}
	return PushArtifact(ctx, repo, manifest, needed, Options{AsIs: true})
}

// PushArtifact is Attach for a form, whose blobs may be of any size: blobs are those
// that manifest needs. Unless opts.AsIs says otherwise, the manifest gets an
// annotation that carries it in lists; see package carry.
func PushArtifact(ctx context.Context, repo *remote.Repository, manifest ocispec.Manifest, blobs []Blob, opts Options) (ocispec.Descriptor, error) {
	a, err := opts.carried(attachment(manifest))
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("build manifest: %w", err)
	}
	return newPusher(repo, opts).push(ctx, a, blobs)
}

// push pushes an artifact behind the blobs that it needs.
func (p *pusher) push(ctx context.Context, a *artifact, blobs []Blob) (ocispec.Descriptor, error) {
	if err := p.pushBlobs(ctx, blobs); err != nil {
		return ocispec.Descriptor{}, err
	}
	if err := p.attach(ctx, a); err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("attach %s to %s: %w", a.descriptor.Digest, a.subject.Digest, err)
	}
	return a.descriptor, nil
}

// attachment is manifest ready to be pushed. Its type, where it names none, is that
// of its config (distribution-spec 1.1, "Listing Referrers").
func attachment(manifest ocispec.Manifest) (*artifact, error) {
	if manifest.Subject == nil || manifest.Subject.Digest.Validate() != nil || manifest.Subject.MediaType == "" {
		return nil, errors.New("the subject's descriptor is incomplete")
	}
	subject := plain(*manifest.Subject)
	manifest.Versioned = specs.Versioned{SchemaVersion: 2}
	manifest.MediaType = ocispec.MediaTypeImageManifest
	manifest.Subject = &subject
	a := &artifact{
		subject: subject, artifactType: cmp.Or(manifest.ArtifactType, manifest.Config.MediaType), annotations: manifest.Annotations,
	}
	return a.marshal(manifest.MediaType, manifest)
}

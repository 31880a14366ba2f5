package publish

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry/remote"
)

// PushImage pushes an image of its own, which is attached to nothing: first its
// blobs, then the manifest, which gets no tag. Schema version and media type of the
// manifest are filled in. What exists already is not sent again.
func PushImage(ctx context.Context, repo *remote.Repository, manifest ocispec.Manifest, blobs []Blob, opts Options) (ocispec.Descriptor, error) {
	manifest.Versioned = specs.Versioned{SchemaVersion: 2}
	manifest.MediaType = ocispec.MediaTypeImageManifest
	p := newPusher(repo, opts)
	if err := p.pushBlobs(ctx, blobs); err != nil {
		return ocispec.Descriptor{}, err
	}
	d, err := p.pushManifest(ctx, manifest.MediaType, manifest)
	if err != nil {
		return d, err
	}
	d.ArtifactType = manifest.ArtifactType
	return d, nil
}

// PushImageIndex pushes an index of images that are in the repository already.
func PushImageIndex(ctx context.Context, repo *remote.Repository, index ocispec.Index, opts Options) (ocispec.Descriptor, error) {
	index.Versioned = specs.Versioned{SchemaVersion: 2}
	index.MediaType = ocispec.MediaTypeImageIndex
	return newPusher(repo, opts).pushManifest(ctx, index.MediaType, index)
}

func (p *pusher) pushManifest(ctx context.Context, mediaType string, manifest any) (ocispec.Descriptor, error) {
	content, err := json.Marshal(manifest)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("encode manifest: %w", err)
	}
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(content), Size: int64(len(content))}
	if err := p.repo.Manifests().Push(ctx, d, bytes.NewReader(content)); err != nil {
		return d, fmt.Errorf("push manifest %s: %w", d.Digest, err)
	}
	p.report(Event{Descriptor: d, Sent: d.Size, Done: true})
	return d, nil
}

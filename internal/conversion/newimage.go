package conversion

import (
	"context"
	"fmt"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry/remote"

	"github.com/referee-cri/referee/negotiate/publish"
)

// newImage is the part of a Target whose forms are images of their own.
type newImage struct{}

// Unite tags the new image, and before that makes an index of all platforms' images
// where the source has one.
func (newImage) Unite(ctx context.Context, repo *remote.Repository, root ocispec.Descriptor, made []Made, opts publish.Options) (*ocispec.Descriptor, error) {
	if !isIndex(root.MediaType) {
		return tag(ctx, repo, made[0].Artifact)
	}
	var entries []ocispec.Descriptor
	for _, m := range made {
		entry := m.Image.Descriptor // keeps all that the source says of it, but for what the content is
		entry.MediaType, entry.Digest, entry.Size = m.Artifact.MediaType, m.Artifact.Digest, m.Artifact.Size
		entries = append(entries, entry)
	}
	return pushIndex(ctx, repo, entries, opts)
}

func pushIndex(ctx context.Context, repo *remote.Repository, entries []ocispec.Descriptor, opts publish.Options) (*ocispec.Descriptor, error) {
	index, err := publish.PushImageIndex(ctx, repo, ocispec.Index{Manifests: entries}, opts)
	if err != nil {
		return nil, err
	}
	return tag(ctx, repo, index)
}

// tag gives a manifest the tag that the repository was opened with.
func tag(ctx context.Context, repo *remote.Repository, d ocispec.Descriptor) (*ocispec.Descriptor, error) {
	if err := repo.Tag(ctx, d, repo.Reference.Reference); err != nil {
		return nil, fmt.Errorf("tag %s as %s: %w", d.Digest, repo.Reference, err)
	}
	return &d, nil
}

// image is a form that is an image of its own.
type image struct {
	manifest ocispec.Manifest
	blobs    []publish.Blob
}

var _ Form = image{}

// Layers are the image's.
func (i image) Layers() []ocispec.Descriptor { return i.manifest.Layers }

// Push pushes the image without a tag.
func (i image) Push(ctx context.Context, repo *remote.Repository, opts publish.Options) (ocispec.Descriptor, error) {
	return publish.PushImage(ctx, repo, i.manifest, i.blobs, opts)
}

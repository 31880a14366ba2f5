package conversion

import (
	"context"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry/remote"

	"github.com/referee-cri/referee/negotiate/publish"
)

// attached is the part of a Target whose forms are referrers of the image.
type attached struct{ artifactType string }

// Keeps is empty: the image stays as it is.
func (attached) Keeps() string { return "" }

// Unite attaches an index of the forms to the image's index, for readers who ask
// about that.
func (a attached) Unite(ctx context.Context, repo *remote.Repository, root ocispec.Descriptor, made []Made, opts publish.Options) (*ocispec.Descriptor, error) {
	if !isIndex(root.MediaType) {
		return nil, nil
	}
	entries := make([]publish.Entry, len(made))
	for i, m := range made {
		entries[i] = publish.Entry{Source: m.Image.Descriptor, Converted: m.Artifact}
	}
	index, err := publish.PushIndex(ctx, repo, root, a.artifactType, entries, opts)
	if err != nil {
		return nil, err
	}
	return &index, nil
}

// artifact is a form that is attached as an artifact manifest.
type artifact struct {
	manifest ocispec.Manifest // its subject is the image
	blobs    []publish.Blob
	asIs     bool // see publish.Options
}

var _ Form = artifact{}

// Layers are the artifact's.
func (a artifact) Layers() []ocispec.Descriptor { return a.manifest.Layers }

// Push attaches the artifact.
func (a artifact) Push(ctx context.Context, repo *remote.Repository, opts publish.Options) (ocispec.Descriptor, error) {
	opts.AsIs = a.asIs
	return publish.PushArtifact(ctx, repo, a.manifest, a.blobs, opts)
}

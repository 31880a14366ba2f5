package conversion

import (
	"context"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry/remote"

	"github.com/referee-cri/referee/lazyblock/convert/source"
	"github.com/referee-cri/referee/negotiate/publish"
)

// Target is a format that images are converted to, with its options.
//
// Forms of some formats are attached to the image; others are images of their own,
// since the format stands in the image's layers or manifest. A target embeds
// [attached] or [newImage] accordingly.
type Target interface {
	// Name is the format's name on the command line.
	Name() string
	// Keeps is "" where forms are attached. Else each is a new image, and Keeps says
	// what it has in common with its original.
	Keeps() string
	// Make converts one platform's image. Files in work.Dir stay until the form was pushed.
	Make(ctx context.Context, image *source.Image, work Work) (Form, error)
	// Unite pushes and tags what holds all forms together, once each was pushed. root
	// is what the source's reference names. It returns nil where nothing does.
	Unite(ctx context.Context, repo *remote.Repository, root ocispec.Descriptor, made []Made, opts publish.Options) (*ocispec.Descriptor, error)
}

// Work is where and how a target works.
type Work struct {
	Dir      string // an empty directory, removed by the caller
	Progress func(source.Progress)
	Remark   func(string) // what a person should know
}

// Form is what a target made of one platform's image.
type Form interface {
	// Layers are the blobs that make the form.
	Layers() []ocispec.Descriptor
	// Push pushes the form and returns the descriptor of its manifest.
	Push(ctx context.Context, repo *remote.Repository, opts publish.Options) (ocispec.Descriptor, error)
}

// Made is a form that was pushed.
type Made struct {
	Image    *source.Image
	Form     Form
	Artifact ocispec.Descriptor
}

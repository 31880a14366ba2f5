package conversion

import (
	"context"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry/remote"

	"github.com/referee-cri/referee/lazyblock/convert"
	"github.com/referee-cri/referee/lazyblock/convert/source"
	"github.com/referee-cri/referee/lazyblock/format/overlaybd"
	"github.com/referee-cri/referee/negotiate/publish"
)

// Overlaybd makes a stack of overlaybd layers, which is attached.
type Overlaybd struct {
	LegacyORAS bool                // publish as an ORAS artifact manifest
	Algorithm  overlaybd.Algorithm // 0: the layer writer's default
	BlockSize  int                 // 0: the layer writer's default
}

var _ Target = Overlaybd{}

// Name is "overlaybd".
func (Overlaybd) Name() string { return "overlaybd" }

// Keeps is empty: the image stays as it is.
func (Overlaybd) Keeps() string { return "" }

// Make converts the layers.
func (o Overlaybd) Make(ctx context.Context, image *source.Image, work Work) (Form, error) {
	result, err := convert.Image(ctx, image, convert.Options{
		WorkDir: work.Dir, Algorithm: o.Algorithm, BlockSize: o.BlockSize, Progress: work.Progress,
	})
	if err != nil {
		return nil, err
	}
	form := overlaybdForm{legacy: o.LegacyORAS}
	form.Source, form.Config, form.ConfigMediaType = plain(image.Descriptor), result.Config, result.ConfigType
	for _, layer := range result.Layers {
		form.Form.Layers = append(form.Form.Layers, publish.File{Descriptor: layer.Descriptor, Path: layer.Path})
	}
	return form, nil
}

// Unite attaches an index, unless there can be none: an ORAS artifact has blobs only.
func (o Overlaybd) Unite(ctx context.Context, repo *remote.Repository, root ocispec.Descriptor, made []Made, opts publish.Options) (*ocispec.Descriptor, error) {
	if o.LegacyORAS {
		return nil, nil
	}
	return attached{publish.ArtifactTypeNative}.Unite(ctx, repo, root, made, opts)
}

type overlaybdForm struct {
	publish.Form

	legacy bool
}

func (f overlaybdForm) Layers() []ocispec.Descriptor {
	layers := make([]ocispec.Descriptor, len(f.Form.Layers))
	for i, layer := range f.Form.Layers {
		layers[i] = layer.Descriptor
	}
	return layers
}

func (f overlaybdForm) Push(ctx context.Context, repo *remote.Repository, opts publish.Options) (ocispec.Descriptor, error) {
	opts.LegacyORAS = f.legacy
	return publish.Push(ctx, repo, f.Form, opts)
}

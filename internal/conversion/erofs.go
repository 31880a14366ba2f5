package conversion

import (
	"context"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/lazyblock/convert"
	"github.com/referee-cri/referee/lazyblock/convert/source"
	"github.com/referee-cri/referee/negotiate/publish"
)

// ArtifactTypeDisk says "the whole file system as one disk" (docs/formats.md). That
// of EROFS layers is their media type: containerd has none for the whole.
const ArtifactTypeDisk = "application/vnd.referee.disk.v1"

// Erofs makes an EROFS image of each layer, which are attached.
type Erofs struct{ attached }

var _ Target = Erofs{}

// NewErofs returns the target.
func NewErofs() Erofs { return Erofs{attached{convert.MediaTypeErofs}} }

// Name is "erofs".
func (Erofs) Name() string { return "erofs" }

// Make converts the layers.
func (e Erofs) Make(ctx context.Context, image *source.Image, work Work) (Form, error) {
	result, err := convert.Layers(ctx, image, convert.Options{WorkDir: work.Dir, Progress: work.Progress})
	if err != nil {
		return nil, err
	}
	return e.form(result), nil
}

// Disk makes one EROFS file system of the whole image, which is attached.
type Disk struct {
	attached

	compress bool
}

var _ Target = Disk{}

// NewDisk returns the target; compress wraps the disk in seekable zstd.
func NewDisk(compress bool) Disk { return Disk{attached{ArtifactTypeDisk}, compress} }

// Name is "disk".
func (Disk) Name() string { return "disk" }

// Make converts the image.
func (d Disk) Make(ctx context.Context, image *source.Image, work Work) (Form, error) {
	result, err := convert.Flat(ctx, image, d.compress, convert.Options{WorkDir: work.Dir, Progress: work.Progress})
	if err != nil {
		return nil, err
	}
	return d.form(result), nil
}

// form is what was converted, as an artifact whose config fits its layers.
func (a attached) form(result *convert.Result) Form {
	subject := plain(result.Source)
	made := artifact{manifest: ocispec.Manifest{
		ArtifactType: a.artifactType, Subject: &subject,
		Config: ocispec.Descriptor{MediaType: result.ConfigType, Digest: digest.FromBytes(result.Config), Size: int64(len(result.Config))},
	}}
	made.blobs = []publish.Blob{publish.BytesBlob(made.manifest.Config, result.Config)}
	for _, layer := range result.Layers {
		made.manifest.Layers = append(made.manifest.Layers, layer.Descriptor)
		made.blobs = append(made.blobs, publish.FileBlob(layer.Descriptor, layer.Path))
	}
	return made
}

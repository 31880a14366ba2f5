package convert

import (
	"context"
	"fmt"
	"os"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/lazyblock/convert/source"
	"github.com/referee-cri/referee/lazyblock/erofs"
	"github.com/referee-cri/referee/lazyblock/format/overlaybd"
)

// Annotations of an overlaybd layer's descriptor, which containerd hands to
// snapshotters as labels.
const (
	annotationBlobDigest = source.AnnotationOverlaybd
	annotationBlobSize   = "containerd.io/snapshot/overlaybd/blob-size"
	annotationVersion    = "containerd.io/snapshot/overlaybd/version"

	formatVersion = "0.1.0"
)

const (
	// virtualSize is the disk's size in bytes as all known converters choose it.
	// It costs nothing: what is not written is not stored.
	virtualSize = 64 << 30

	defaultMaxSize = 1 << 40
)

// Options say how to convert. WorkDir is required.
type Options struct {
	WorkDir   string                // an existing directory; the layers' files are made here
	Algorithm overlaybd.Algorithm   // of the blocks' compression; zero means the layer writer's default
	BlockSize int                   // bytes compressed as one; zero means the layer writer's default
	Limits    erofs.Limits          // of the memory that the merged tree takes
	MaxSize   int64                 // bytes of the largest disk, and of an uncompressed layer; 0 means 1 TiB
	Progress  func(source.Progress) // called from the goroutine that called Image; may be nil
}

func (o *Options) setDefaults() {
	if o.MaxSize == 0 {
		o.MaxSize = defaultMaxSize
	}
}

// Result is a converted image. The caller owns the files.
type Result struct {
	Source     ocispec.Descriptor // the manifest that was converted
	Layers     []Layer            // as many as the source has, bottom first
	Config     []byte             // the source's config with the layers' digests as diff IDs
	ConfigType string             // media type of the config
}

// Layer is one converted layer.
type Layer struct {
	Descriptor ocispec.Descriptor // with the overlaybd annotations
	Path       string             // the blob's file in Options.WorkDir
	ChainID    digest.Digest      // of the source's layers up to this one
}

// Image converts one platform's image: it reads the layers, checks them against
// their digests and the plain bytes against the config's diff IDs, and writes one
// overlaybd layer each.
//
// Errors that blame the image wrap [erofs.ErrInvalid] or carry a reason code.
// After an error no files are left.
func Image(ctx context.Context, image *source.Image, opts Options) (*Result, error) {
	opts.setDefaults()
	c := &converter{image: image, opts: opts, disk: newDisk(opts.Limits), size: virtualSize}
	result := &Result{Source: image.Descriptor, ConfigType: ocispec.MediaTypeImageConfig}
	digests := make([]digest.Digest, 0, len(image.DiffIDs))
	for i := range image.Manifest.Layers {
		layer, err := c.layer(ctx, i)
		if err != nil {
			result.remove()
			return nil, fmt.Errorf("convert layer %d of %d, %s: %w", i+1, len(image.DiffIDs), image.Manifest.Layers[i].Digest, err)
		}
		result.Layers = append(result.Layers, layer)
		digests = append(digests, layer.Descriptor.Digest)
	}
	config, err := image.ConfigWith(digests)
	if err != nil {
		result.remove()
		return nil, err
	}
	result.Config = config
	return result, nil
}

// remove deletes the files of a conversion that failed.
func (r *Result) remove() {
	for _, layer := range r.Layers {
		_ = os.Remove(layer.Path) // best effort: another error is on its way
	}
}

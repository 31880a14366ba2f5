package convert

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/lazyblock/convert/source"
	"github.com/referee-cri/referee/lazyblock/erofs"
)

// MediaTypeErofs is that of a layer that is an EROFS image (containerd 2.1).
const MediaTypeErofs = "application/vnd.erofs.layer.v1"

// Layers converts each layer to an EROFS image of its own, uncompressed, which
// overlayfs can put above those of the layers below. Directories that a layer does not
// name take the metadata that those below give them.
//
// Errors are those of [Image]; of opts Algorithm and BlockSize do not count.
func Layers(ctx context.Context, image *source.Image, opts Options) (_ *Result, err error) {
	opts.setDefaults()
	result := &Result{Source: image.Descriptor, ConfigType: ocispec.MediaTypeImageConfig}
	defer func() {
		if err != nil {
			result.remove()
		}
	}()
	tree := erofs.NewTree(opts.Limits)
	var diffIDs []digest.Digest
	for i := range image.Manifest.Layers {
		w := &layerImage{image: image, layer: i, opts: opts, tree: tree}
		layer, err := w.make(ctx, filepath.Join(opts.WorkDir, fmt.Sprintf("layer-%03d.erofs", i)))
		if err != nil {
			return nil, fmt.Errorf("convert layer %d of %d, %s: %w", i+1, len(image.DiffIDs), image.Manifest.Layers[i].Digest, err)
		}
		result.Layers = append(result.Layers, layer)
		diffIDs = append(diffIDs, layer.Descriptor.Digest) // it is not compressed
	}
	if result.Config, err = image.ConfigWith(diffIDs); err != nil {
		return nil, err
	}
	return result, nil
}

// layerImage is one layer that becomes an image.
type layerImage struct {
	image *source.Image
	layer int // from 0
	opts  Options
	tree  *erofs.Tree // of the layers below
}

func (l *layerImage) make(ctx context.Context, path string) (_ Layer, err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return Layer{}, err
	}
	defer func() {
		if err = errors.Join(err, f.Close()); err != nil {
			_ = os.Remove(path) // best effort: err is what matters
		}
	}()
	progress := newProgress(l.image, l.layer, l.opts, f)
	size, err := l.write(ctx, progress)
	if err != nil {
		return Layer{}, err
	}
	if err := f.Truncate(size); err != nil {
		return Layer{}, err
	}
	d, err := digestOf(ctx, io.NewSectionReader(f, 0, size))
	if err != nil {
		return Layer{}, err
	}
	progress.done(size)
	return Layer{
		Descriptor: ocispec.Descriptor{MediaType: MediaTypeErofs, Digest: d, Size: size}, Path: path, ChainID: l.image.ChainIDs[l.layer],
	}, nil
}

// write writes the image, and adds the layer to the tree once that is done.
func (l *layerImage) write(ctx context.Context, w *progress) (size int64, err error) {
	limit := uint64(l.opts.MaxSize) >> blockBits
	data := erofs.NewData(w, blockBits, erofs.HeadBlocks(blockBits, 0), limit)
	layer := l.tree.NewLayer()
	if err := readLayer(ctx, l.image, l.layer, l.opts, layer, data, w); err != nil {
		return 0, err
	}
	upper, err := layer.Overlay()
	if err != nil {
		return 0, reason.Wrap(reason.ArtifactInvalid, err)
	}
	layout, err := upper.Layout(erofs.LayoutOptions{BlockBits: blockBits, Start: data.Next(), Limit: limit, UUID: erofsUUID(l.image.DiffIDs[l.layer])})
	if err != nil {
		return 0, reason.Wrap(reason.ArtifactInvalid, err)
	}
	if err := layout.Write(ctx, w); err != nil {
		return 0, fmt.Errorf("write metadata: %w", err)
	}
	return int64(layout.End()) << blockBits, l.tree.Apply(layer)
}

// readLayer reads layer i into a layer of a tree, and its files' contents to data.
func readLayer(ctx context.Context, image *source.Image, i int, opts Options, layer changes, data *erofs.Data, w *progress) error {
	tarball, err := image.Open(ctx, i, opts.MaxSize, &w.read)
	if err != nil {
		return err
	}
	defer tarball.Close()
	if err := readTar(ctx, tarball, layer, data); err != nil {
		if errors.Is(err, erofs.ErrDiskFull) {
			err = reason.Wrap(reason.ArtifactInvalid, err)
		}
		return err
	}
	if err := tarball.Verify(); err != nil {
		return err
	}
	return data.Flush()
}

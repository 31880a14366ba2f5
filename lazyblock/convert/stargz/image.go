package stargz

import (
	"context"
	"fmt"
	"os"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/lazyblock/convert/source"
)

// Format is one of the two formats that share a table of contents.
type Format int

// The formats.
const (
	EStargz     Format = iota // gzip members
	ZstdChunked               // zstd frames, in the dialect of stargz-snapshotter, BuildKit and nerdctl
)

// Options say how to convert. WorkDir is required.
type Options struct {
	WorkDir     string // an existing directory; the layers' files are made here
	Format      Format
	ChunkSize   int      // bytes of a file that are compressed as one; 0: 4 MiB, the library's
	Prioritized []string // paths of files that a start reads, in the order in which it does
	MaxSize     int64    // bytes of an uncompressed layer; 0 means 1 TiB
	Progress    func(source.Progress)
}

const defaultMaxSize = 1 << 40

// Result is a converted image. The caller owns the files.
type Result struct {
	Layers []Layer  // as many as the source has, bottom first
	Config []byte   // the source's config with the layers' diff IDs
	Missed []string // prioritized files that no layer has
}

// Layer is one converted layer.
type Layer struct {
	Descriptor ocispec.Descriptor // with the format's annotations
	Path       string             // the blob's file in Options.WorkDir
	DiffID     digest.Digest
}

// Image converts the layers of an image. Errors that blame the image carry a reason
// code. After an error no files are left.
func Image(ctx context.Context, image *source.Image, opts Options) (_ *Result, err error) {
	if opts.MaxSize == 0 {
		opts.MaxSize = defaultMaxSize
	}
	result := &Result{Missed: opts.Prioritized}
	defer func() {
		if err != nil {
			result.remove()
		}
	}()
	var diffIDs []digest.Digest
	for i := range image.Manifest.Layers {
		c := &converter{image: image, layer: i, opts: opts}
		layer, missed, err := c.convert(ctx)
		if err != nil {
			return nil, fmt.Errorf("convert layer %d of %d, %s: %w", i+1, len(image.DiffIDs), image.Manifest.Layers[i].Digest, err)
		}
		result.Layers = append(result.Layers, layer)
		diffIDs = append(diffIDs, layer.DiffID)
		result.Missed = slices.DeleteFunc(slices.Clone(result.Missed), func(name string) bool { return !slices.Contains(missed, name) })
	}
	if result.Config, err = image.ConfigWith(diffIDs); err != nil {
		return nil, err
	}
	return result, nil
}

// remove deletes the files of a conversion that failed.
func (r *Result) remove() {
	for _, layer := range r.Layers {
		_ = os.Remove(layer.Path) // best effort: another error is on its way
	}
}

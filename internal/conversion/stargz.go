package conversion

import (
	"context"
	"fmt"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/lazyblock/convert/source"
	"github.com/referee-cri/referee/lazyblock/convert/stargz"
	"github.com/referee-cri/referee/negotiate/publish"
)

// Stargz makes eStargz or zstd:chunked images.
type Stargz struct {
	newImage

	Format      stargz.Format
	ChunkSize   int      // bytes of a file that are compressed as one; 0: 4 MiB
	Prioritized []string // paths of files that a start reads, in order
}

var _ Target = Stargz{}

// Name is "estargz" or "zstd-chunked".
func (s Stargz) Name() string {
	if s.Format == stargz.ZstdChunked {
		return "zstd-chunked"
	}
	return "estargz"
}

// Keeps says that little stays.
func (Stargz) Keeps() string {
	return "its files and its settings; digest, image ID, layers and diff IDs are new"
}

// Make converts the layers.
func (s Stargz) Make(ctx context.Context, original *source.Image, work Work) (Form, error) {
	result, err := stargz.Image(ctx, original, stargz.Options{
		WorkDir: work.Dir, Format: s.Format, ChunkSize: s.ChunkSize, Prioritized: s.Prioritized, Progress: work.Progress,
	})
	if err != nil {
		return nil, err
	}
	for _, name := range result.Missed {
		work.Remark(fmt.Sprintf("to be prioritized, but in no layer: %q", name))
	}
	config := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: digest.FromBytes(result.Config), Size: int64(len(result.Config))}
	made := image{
		manifest: ocispec.Manifest{ArtifactType: original.Manifest.ArtifactType, Config: config, Annotations: original.Manifest.Annotations},
		blobs:    []publish.Blob{publish.BytesBlob(config, result.Config)},
	}
	for _, layer := range result.Layers {
		made.manifest.Layers = append(made.manifest.Layers, layer.Descriptor)
		made.blobs = append(made.blobs, publish.FileBlob(layer.Descriptor, layer.Path))
	}
	return made, nil
}

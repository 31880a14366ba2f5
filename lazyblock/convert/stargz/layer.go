package stargz

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/containerd/stargz-snapshotter/estargz/zstdchunked"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/lazyblock/convert/source"
)

// parts is into how many parts a layer is cut to be compressed side by side. The
// cuts show in the bytes, so it must not depend on the machine.
const parts = 4

// converter is one layer at work.
type converter struct {
	image *source.Image
	layer int // from 0
	opts  Options
	read  atomic.Int64 // counted by the goroutine that reads the blob
}

// convert makes the layer's blob. missed are the prioritized files that it lacks.
func (c *converter) convert(ctx context.Context) (_ Layer, missed []string, err error) {
	spool, err := os.CreateTemp(c.opts.WorkDir, "layer-*.tar")
	if err != nil {
		return Layer{}, nil, fmt.Errorf("make file for plain layer: %w", err)
	}
	defer func() { err = errors.Join(err, spool.Close(), os.Remove(spool.Name())) }()
	size, err := c.fetch(ctx, spool)
	if err != nil {
		return Layer{}, nil, err
	}
	metadata := map[string]string{}
	options := []estargz.Option{
		estargz.WithContext(ctx), estargz.WithParallelism(parts), estargz.WithChunkSize(c.opts.ChunkSize),
		estargz.WithPrioritizedFiles(c.opts.Prioritized), estargz.WithAllowPrioritizeNotFound(&missed),
	}
	if c.opts.Format == ZstdChunked {
		options = append(options, estargz.WithCompression(&zstdCompression{
			Compressor: &zstdchunked.Compressor{CompressionLevel: zstd.SpeedDefault, Metadata: metadata},
		}))
	} else {
		options = append(options, estargz.WithCompression(newGzipCompression()))
	}
	blob, err := estargz.Build(io.NewSectionReader(spool, 0, size), options...)
	if err != nil {
		return Layer{}, nil, reason.Wrap(reason.ArtifactInvalid, fmt.Errorf("build layer: %w", err))
	}
	layer, err := c.store(ctx, blob)
	if err != nil {
		return Layer{}, nil, err
	}
	maps.Copy(layer.Descriptor.Annotations, metadata)
	return layer, missed, nil
}

// zstdCompression is the library's, in both directions.
type zstdCompression struct {
	*zstdchunked.Compressor
	zstdchunked.Decompressor
}

// fetch writes the layer's tar to w and returns its length once it is known to be
// the right one.
func (c *converter) fetch(ctx context.Context, w io.Writer) (int64, error) {
	tarball, err := c.image.Open(ctx, c.layer, c.opts.MaxSize, &c.read)
	if err != nil {
		return 0, err
	}
	defer tarball.Close()
	buffered := bufio.NewWriterSize(w, 1<<20)
	out := &written{w: buffered, left: c.opts.MaxSize, report: c.report}
	found, err := rewrite(ctx, tarball, out)
	if err != nil {
		return 0, err
	}
	if err := found.check(c.opts.Prioritized); err != nil {
		return 0, err
	}
	if err := tarball.Verify(); err != nil {
		return 0, err
	}
	return out.n, buffered.Flush()
}

func (c *converter) report(written int64) { c.progress(written, 0) }

func (c *converter) progress(written, blobSize int64) {
	if c.opts.Progress == nil {
		return
	}
	c.opts.Progress(source.Progress{
		Layer: c.layer, Layers: len(c.image.DiffIDs), Read: c.read.Load(), Size: c.image.Manifest.Layers[c.layer].Size,
		Written: written, BlobSize: blobSize,
	})
}

// store writes the finished blob to its file, and removes that after an error.
func (c *converter) store(ctx context.Context, blob *estargz.Blob) (_ Layer, err error) {
	defer func() {
		// The library's writer waits for a reader and knows no other end.
		_, _ = io.Copy(io.Discard, blob)
		err = errors.Join(err, blob.Close())
	}()
	path := filepath.Join(c.opts.WorkDir, fmt.Sprintf("layer-%03d.%s", c.layer, c.opts.Format))
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return Layer{}, err
	}
	digester := digest.Canonical.Digester()
	size, err := io.Copy(io.MultiWriter(f, digester.Hash()), source.Within(ctx, blob))
	if err = errors.Join(err, f.Close()); err != nil {
		_ = os.Remove(path) // best effort: err is what matters
		return Layer{}, fmt.Errorf("write layer: %w", err)
	}
	plain, err := blob.UncompressedSize()
	if err != nil {
		_ = os.Remove(path) // best effort: err is what matters
		return Layer{}, fmt.Errorf("measure layer: %w", err)
	}
	c.progress(plain, size)
	desc := ocispec.Descriptor{
		MediaType: c.opts.Format.mediaType(), Digest: digester.Digest(), Size: size,
		Annotations: kept(c.image.Manifest.Layers[c.layer].Annotations),
	}
	desc.Annotations[estargz.TOCJSONDigestAnnotation] = blob.TOCDigest().String()
	desc.Annotations[estargz.StoreUncompressedSizeAnnotation] = strconv.FormatInt(plain, 10)
	return Layer{Descriptor: desc, Path: path, DiffID: blob.DiffID()}, nil
}

// String is the format's name as part of a file's.
func (f Format) String() string {
	if f == ZstdChunked {
		return "zstdchunked"
	}
	return "estargz"
}

func (f Format) mediaType() string {
	if f == ZstdChunked {
		return ocispec.MediaTypeImageLayerZstd
	}
	return ocispec.MediaTypeImageLayerGzip
}

// kept are the annotations of a layer that stay true for another spelling of it.
func kept(annotations map[string]string) map[string]string {
	left := map[string]string{}
	for key, value := range annotations {
		stale := strings.HasPrefix(key, "containerd.io/") || strings.HasPrefix(key, "io.containers.") || strings.HasPrefix(key, "io.github.containers.")
		if !stale {
			left[key] = value
		}
	}
	return left
}

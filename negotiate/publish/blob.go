package publish

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// Blob is content to be pushed. Open is called only if the registry does not have
// it, once; what it returns is closed.
type Blob struct {
	ocispec.Descriptor // digest and size are what the registry will check

	Open func(ctx context.Context) (io.ReadCloser, error)
}

// FileBlob is a blob that lies on disk.
func FileBlob(d ocispec.Descriptor, path string) Blob {
	return Blob{Descriptor: d, Open: func(context.Context) (io.ReadCloser, error) {
		info, err := os.Stat(path)
		if err != nil {
			return nil, err
		}
		if info.Size() != d.Size {
			return nil, fmt.Errorf("file %s is %d bytes, its descriptor says %d", path, info.Size(), d.Size)
		}
		return os.Open(path)
	}}
}

// BytesBlob is a blob in memory.
func BytesBlob(d ocispec.Descriptor, content []byte) Blob {
	return Blob{Descriptor: d, Open: func(context.Context) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(content)), nil
	}}
}

// pushBlobs pushes a few blobs at a time, each digest once.
func (p *pusher) pushBlobs(ctx context.Context, blobs []Blob) error {
	g, ctx := errgroup.WithContext(ctx) // waited for below
	g.SetLimit(parallelBlobs)
	seen := map[digest.Digest]bool{}
	for _, blob := range blobs {
		if seen[blob.Digest] {
			continue
		}
		seen[blob.Digest] = true
		g.Go(func() error {
			if err := p.pushBlob(ctx, blob); err != nil {
				return fmt.Errorf("push blob %s: %w", blob.Digest, err)
			}
			return nil
		})
	}
	return g.Wait()
}

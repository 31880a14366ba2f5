package convert

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/lazyblock/convert/source"
	"github.com/referee-cri/referee/lazyblock/erofs"
	"github.com/referee-cri/referee/lazyblock/format/overlaybd"
)

// converter is one image at work.
type converter struct {
	image *source.Image
	opts  Options
	disk  *disk
	size  int64 // virtual size of the disk; grows, never shrinks
}

// layer converts layer i; those below it must have been converted.
func (c *converter) layer(ctx context.Context, i int) (Layer, error) {
	path := filepath.Join(c.opts.WorkDir, fmt.Sprintf("layer-%03d.overlaybd", i))
	for {
		desc, err := c.attempt(ctx, i, path)
		if err == nil {
			return Layer{Descriptor: desc, Path: path, ChainID: c.image.ChainIDs[i]}, nil
		}
		if !errors.Is(err, erofs.ErrDiskFull) {
			return Layer{}, err
		}
		if c.size*2 > c.opts.MaxSize {
			return Layer{}, reason.Wrap(reason.ArtifactInvalid, err)
		}
		c.size *= 2 // the next attempt fetches the layer anew: nobody keeps 64 GiB for a case this rare
	}
}

// attempt writes layer i to a new file at path, for a disk of c.size bytes.
func (c *converter) attempt(ctx context.Context, i int, path string) (_ ocispec.Descriptor, err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			_ = os.Remove(path) // best effort: err is what matters
		}
	}()
	w, err := overlaybd.NewLayerWriter(f, c.layerOptions(i))
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("start layer file: %w", err)
	}
	progress := newProgress(c.image, i, c.opts, w)
	if err := c.copy(ctx, i, progress); err != nil {
		return ocispec.Descriptor{}, err
	}
	size, err := w.Finish(ctx)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("finish layer file: %w", err)
	}
	desc, err := describe(ctx, f, size)
	if err == nil {
		progress.done(size)
	}
	return desc, err
}

func (c *converter) layerOptions(i int) overlaybd.LayerOptions {
	opts := overlaybd.LayerOptions{
		VirtualSize: c.size,
		UUID:        overlaybd.UUIDFromChainID(c.image.ChainIDs[i].String()),
		Algorithm:   c.opts.Algorithm,
		BlockSize:   c.opts.BlockSize,
	}
	if i > 0 {
		opts.ParentUUID = overlaybd.UUIDFromChainID(c.image.ChainIDs[i-1].String())
	}
	return opts
}

// copy fetches layer i and adds it to the disk.
func (c *converter) copy(ctx context.Context, i int, w *progress) error {
	tarball, err := c.image.Open(ctx, i, c.opts.MaxSize, &w.read)
	if err != nil {
		return err
	}
	defer tarball.Close()
	return c.disk.addLayer(ctx, tarball, tarball.Verify, w, c.size, erofsUUID(c.image.ChainIDs[i]))
}

// erofsUUID is the first half of the chain ID, as overlaybd's UUIDs are.
func erofsUUID(chainID digest.Digest) (uuid [16]byte) {
	_, _ = hex.Decode(uuid[:], []byte(chainID.Encoded()[:2*len(uuid)])) // chain IDs are sha256
	return uuid
}

// hashStep is how many bytes are hashed between looks at the context.
const hashStep = 16 << 20

// describe reads the finished file once more for its digest: its head is
// written last.
func describe(ctx context.Context, f *os.File, size int64) (ocispec.Descriptor, error) {
	sum, err := digestOf(ctx, io.NewSectionReader(f, 0, size))
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return ocispec.Descriptor{
		MediaType: ocispec.MediaTypeImageLayer,
		Digest:    sum,
		Size:      size,
		Annotations: map[string]string{
			annotationBlobDigest: sum.String(),
			annotationBlobSize:   strconv.FormatInt(size, 10),
			annotationVersion:    formatVersion,
		},
	}, nil
}

// digestOf hashes what r has left.
func digestOf(ctx context.Context, r io.Reader) (digest.Digest, error) {
	digester := digest.Canonical.Digester()
	for {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		if _, err := io.CopyN(digester.Hash(), r, hashStep); errors.Is(err, io.EOF) {
			return digester.Digest(), nil
		} else if err != nil {
			return "", fmt.Errorf("hash layer file: %w", err)
		}
	}
}

// progress tells the caller about every write on its way to w.
type progress struct {
	w    io.WriterAt
	call func(source.Progress)
	now  source.Progress
	read atomic.Int64 // counted by the goroutine that reads the blob
}

func newProgress(image *source.Image, layer int, opts Options, w io.WriterAt) *progress {
	return &progress{w: w, call: opts.Progress, now: source.Progress{
		Layer: layer, Layers: len(image.DiffIDs), Size: image.Manifest.Layers[layer].Size,
	}}
}

func (p *progress) WriteAt(b []byte, off int64) (int, error) {
	n, err := p.w.WriteAt(b, off)
	p.now.Written += int64(n)
	p.report()
	return n, err
}

func (p *progress) done(size int64) {
	p.now.BlobSize = size
	p.report()
}

func (p *progress) report() {
	if p.call != nil {
		p.now.Read = p.read.Load()
		p.call(p.now)
	}
}

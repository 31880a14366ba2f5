package materialise

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/internal/registry"
)

// fetchAhead is how many layers are on disk, whole or in part, and not unpacked.
const fetchAhead = 3

// Source is the repository that holds the layers; *registry.Repository is one.
type Source interface {
	Do(ctx context.Context, req registry.Request) (*registry.Response, error)
}

var _ Source = (*registry.Repository)(nil)

// Layer is one layer of an image.
type Layer struct {
	ocispec.Descriptor               // of the blob
	DiffID             digest.Digest // of its uncompressed bytes
}

// Progress says how far Layers is.
type Progress struct {
	Fetched, Total   int64 // bytes of blobs
	Unpacked, Layers int   // layers
}

// Options of Layers. The zero value is usable.
type Options struct {
	// Progress, where not nil, is told now and then, never twice at a time.
	Progress func(Progress)
	// Reserve is how much of the file system stays free, in bytes; 0: a twentieth
	// of it, at most 8 GiB.
	Reserve int64
	// StallTimeout is how long a transfer may bring next to nothing; 0: 30 s.
	StallTimeout time.Duration
	// MinBackoff is the first pause before a broken transfer goes on; 0: 250 ms.
	MinBackoff time.Duration
	Log        *zap.Logger
}

func (o *Options) setDefaults() {
	if o.StallTimeout == 0 {
		o.StallTimeout = 30 * time.Second
	}
	if o.MinBackoff == 0 {
		o.MinBackoff = 250 * time.Millisecond
	}
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
}

// Layers fetches layers, bottom first, from src and makes the directory dir of
// them, which must not exist. While it works it also uses names beside dir that
// begin with dir's and a dot. When it returns nil, dir is complete, verified and
// on disk; otherwise there is nothing.
//
// The error wraps ErrNoRoom where the file system is too small; it carries
// reason.DigestMismatch, SizeMismatch, ArtifactInvalid or what the registry said.
func Layers(ctx context.Context, dir string, layers []Layer, src Source, opts Options) (err error) {
	opts.setDefaults()
	if err := check(layers); err != nil {
		return err
	}
	w := &work{
		layers: layers, src: src, opts: opts, tree: dir,
		blobs: dir + ".blobs", uppers: dir + ".layers",
		room: room{dir: filepath.Dir(dir), reserve: opts.Reserve},
	}
	defer func() {
		err = errors.Join(noRoom(err), w.clean(err != nil))
	}()
	if err := w.unpackAll(ctx); err != nil {
		return err
	}
	if err := w.flatten(ctx); err != nil {
		return err
	}
	return syncFS(dir)
}

// check looks at what can be seen before anything is fetched.
func check(layers []Layer) error {
	if len(layers) == 0 {
		return reason.Errorf(reason.ArtifactInvalid, "image has no layers")
	}
	for i, layer := range layers {
		if !isLayer(layer.MediaType) {
			return reason.Errorf(reason.ArtifactInvalid, "layer %d: unknown media type %q", i, layer.MediaType)
		}
		if layer.Size <= 0 || layer.Size > math.MaxInt64/int64(len(layers)) {
			return reason.Errorf(reason.ArtifactInvalid, "layer %d: size %d", i, layer.Size)
		}
		if err := errors.Join(layer.Digest.Validate(), layer.DiffID.Validate()); err != nil {
			return reason.Errorf(reason.ArtifactInvalid, "layer %d: %w", i, err)
		}
	}
	return nil
}

// isLayer knows the media types of layers that are tars (OCI image-spec 1.1,
// "Layer", with its deprecated non-distributable ones; Docker manifest v2 schema
// 2). The compression is found in the blob itself.
func isLayer(mediaType string) bool {
	switch mediaType {
	case ocispec.MediaTypeImageLayer, ocispec.MediaTypeImageLayerGzip, ocispec.MediaTypeImageLayerZstd,
		"application/vnd.oci.image.layer.nondistributable.v1.tar",
		"application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
		"application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
		"application/vnd.docker.image.rootfs.diff.tar",
		"application/vnd.docker.image.rootfs.diff.tar.gzip",
		"application/vnd.docker.image.rootfs.diff.tar.zstd",
		"application/vnd.docker.image.rootfs.foreign.diff.tar",
		"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip":
		return true
	}
	return false
}

// work is one call of Layers.
type work struct {
	layers  []Layer
	parents []string // directories that they lie over, the highest first
	src     Source
	opts    Options
	room    room

	tree   string // the result
	blobs  string // holds what is fetched
	uppers string // holds a directory a layer, as overlayfs would be given them

	mu       sync.Mutex
	progress Progress
}

func (w *work) blob(i int) string  { return filepath.Join(w.blobs, strconv.Itoa(i)) }
func (w *work) upper(i int) string { return filepath.Join(w.uppers, strconv.Itoa(i)) }

// clean removes the scratch directories and, with everything, the result.
func (w *work) clean(everything bool) error {
	err := errors.Join(os.RemoveAll(w.blobs), os.RemoveAll(w.uppers))
	if everything {
		err = errors.Join(err, os.RemoveAll(w.tree))
	}
	return err
}

// unpackAll fetches all layers and unpacks each once those below it are.
func (w *work) unpackAll(ctx context.Context) error {
	w.progress.Layers = len(w.layers)
	for _, layer := range w.layers {
		w.progress.Total += layer.Size // no overflow: see check
	}
	if err := w.room.need(w.progress.Total); err != nil {
		return err
	}
	for _, scratch := range []string{w.blobs, w.uppers} {
		if err := os.Mkdir(scratch, 0o700); err != nil {
			return fmt.Errorf("make scratch directory: %w", err)
		}
	}
	group, ctx := errgroup.WithContext(ctx)
	slots := make(chan struct{}, fetchAhead)
	fetched := make([]chan struct{}, len(w.layers))
	for i := range fetched {
		fetched[i] = make(chan struct{})
	}
	group.Go(func() error {
		for i := range w.layers {
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
				return ctx.Err()
			}
			group.Go(func() error {
				if err := w.fetch(ctx, i); err != nil {
					return err
				}
				close(fetched[i])
				return nil
			})
		}
		return nil
	})
	group.Go(func() error {
		for i := range w.layers {
			select {
			case <-fetched[i]:
			case <-ctx.Done(): // also where fetching failed
				return ctx.Err()
			}
			if err := w.unpack(ctx, i); err != nil {
				return fmt.Errorf("unpack layer %s: %w", w.layers[i].Digest, err)
			}
			<-slots
			w.report(func(p *Progress) { p.Unpacked++ })
		}
		return nil
	})
	return group.Wait()
}

func (w *work) report(change func(*Progress)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change(&w.progress)
	if w.opts.Progress != nil {
		w.opts.Progress(w.progress)
	}
}

// syncFS makes everything under dir durable. It syncs the whole file system,
// which is cheaper than a hundred thousand files one by one.
func syncFS(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return fmt.Errorf("sync file system of %s: %w", dir, err)
	}
	return nil
}

package turbooci

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/lazyblock"
	"github.com/referee-cri/referee/lazyblock/format/gzindex"
	"github.com/referee-cri/referee/lazyblock/format/overlaybd"
	"github.com/referee-cri/referee/lazyblock/format/span"
)

// Annotations on an archive's descriptor, in the order in which they count: the
// original layer that it is of, and that layer's media type.
var (
	annotationsTarget = []string{
		"containerd.io/snapshot/overlaybd/turbo-oci/target-digest",
		"containerd.io/snapshot/overlaybd/fastoci/target-digest",
	}
	annotationsTargetType = []string{
		"containerd.io/snapshot/overlaybd/turbo-oci/target-media-type",
		"containerd.io/snapshot/overlaybd/fastoci/target-media-type",
	}
)

// Bounds on a form.
const (
	maxArchives = 512 << 20 // of all archives, as they are stored: they are in memory
	openAtOnce  = 4
)

// Options of Open. The zero value is good.
type Options struct {
	Memory *span.Memory // keeps inflated spans; nil: one for this volume
}

// Open opens a form: form.Tables are its layers, bottom first, each an archive that
// names one of form.Layers, the image's own layers, as its target. A table without a
// target is a native overlaybd layer, an empty file system below the others.
//
// Bytes that break the format give reason.FormatCorrupt.
func Open(ctx context.Context, form lazyblock.Form, opts Options) (_ lazyblock.Volume, err error) {
	if opts.Memory == nil {
		opts.Memory = span.NewMemory(span.DefaultMemory, nil)
	}
	stack := make([]overlaybd.Layer, len(form.Tables))
	d := &device{}
	defer func() {
		if err != nil {
			d.remotes = remotes(stack)
			err = errors.Join(fmt.Errorf("open volume %s: %w", form.ID, err), d.Close())
		}
	}()
	total := int64(0)
	for _, table := range form.Tables {
		if total += table.Size(); total > maxArchives {
			return lazyblock.Volume{}, reason.Errorf(reason.FormatCorrupt, "layers of more than %d bytes", maxArchives)
		}
	}
	group, gctx := errgroup.WithContext(ctx) // waited for below
	group.SetLimit(openAtOnce)
	for i, table := range form.Tables {
		group.Go(func() (err error) {
			if stack[i], err = openLayer(gctx, table, form.Layers, opts.Memory); err != nil {
				return fmt.Errorf("layer %d: %w", i, err)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return lazyblock.Volume{}, err
	}
	d.remotes = remotes(stack)
	if d.Device, err = overlaybd.OpenStack(ctx, stack, form.ID); err != nil {
		return lazyblock.Volume{}, err
	}
	fsType, err := lazyblock.FSType(ctx, d)
	if err != nil {
		return lazyblock.Volume{}, err
	}
	return lazyblock.Volume{FSType: fsType, Primary: d}, nil
}

// openLayer opens one layer of the form.
func openLayer(ctx context.Context, table lazyblock.FormBlob, originals []lazyblock.FormBlob, memory *span.Memory) (overlaybd.Layer, error) {
	target := digest.Digest(annotation(table, annotationsTarget))
	if target == "" {
		return overlaybd.Layer{Blob: table.RangeReader}, nil
	}
	i := slices.IndexFunc(originals, func(blob lazyblock.FormBlob) bool { return blob.Descriptor.Digest == target })
	if i < 0 {
		return overlaybd.Layer{}, reason.Errorf(reason.LayerMismatch, "it is of layer %.80q, which the image does not have", target)
	}
	a, err := readArchive(ctx, table)
	if err != nil {
		return overlaybd.Layer{}, err
	}
	remote, err := openTarget(originals[i], annotation(table, annotationsTargetType), a.gzip, memory)
	if err != nil {
		return overlaybd.Layer{}, err
	}
	return overlaybd.Layer{Blob: lazyblock.InMemory(a.fs), Remote: remote}, nil
}

// openTarget reads the tar of an original layer.
func openTarget(blob lazyblock.FormBlob, mediaType string, meta []byte, memory *span.Memory) (lazyblock.RangeReader, error) {
	if mediaType == "" {
		mediaType = blob.Descriptor.MediaType
	}
	compressed := strings.HasSuffix(mediaType, "gzip")
	switch {
	case !compressed && meta == nil:
		return blob.RangeReader, nil
	case meta == nil:
		return nil, reason.Errorf(reason.FormatCorrupt, "no %s for a layer of type %q", memberGzip, mediaType)
	}
	x, err := parseGzipMeta(meta, blob.Size())
	if err != nil {
		return nil, err
	}
	return x.Content(blob.RangeReader, gzindex.ContentOptions{Memory: memory})
}

// annotation returns the first of names that the blob's descriptor has.
func annotation(blob lazyblock.FormBlob, names []string) string {
	for _, name := range names {
		if value := blob.Descriptor.Annotations[name]; value != "" {
			return value
		}
	}
	return ""
}

// device is the stack with what it reads from.
type device struct {
	*overlaybd.Device

	remotes []io.Closer
}

func remotes(stack []overlaybd.Layer) []io.Closer {
	var found []io.Closer
	for _, layer := range stack {
		if closer, ok := layer.Remote.(*span.Reader); ok && closer != nil {
			found = append(found, closer)
		}
	}
	return found
}

// Close implements io.Closer.
func (d *device) Close() error {
	var errs []error
	if d.Device != nil {
		errs = append(errs, d.Device.Close())
	}
	for _, remote := range d.remotes {
		errs = append(errs, remote.Close())
	}
	return errors.Join(errs...)
}

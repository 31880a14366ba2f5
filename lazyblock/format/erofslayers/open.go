package erofslayers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/lazyblock"
	"github.com/referee-cri/referee/lazyblock/erofs/ondisk"
	"github.com/referee-cri/referee/lazyblock/format/seekable"
	"github.com/referee-cri/referee/lazyblock/format/span"
	"github.com/referee-cri/referee/lazyblock/format/toc"
)

// MediaType is that of a layer that is an EROFS image (containerd 2.1). A suffix
// tells how the blob is compressed as a whole.
const MediaType = "application/vnd.erofs.layer.v1"

const (
	maxLayers     = 512 // as package toc has it
	parallelOpens = 8
)

// Open returns the volume that the layers of a form add up to. memory keeps
// decoded zstd frames; nil: each layer has its own.
func Open(ctx context.Context, form lazyblock.Form, memory *span.Memory) (lazyblock.Volume, error) {
	if len(form.Layers) == 0 || len(form.Layers) > maxLayers {
		return lazyblock.Volume{}, reason.Errorf(reason.ArtifactInvalid, "open EROFS layers: %d layers, want 1 to %d", len(form.Layers), maxLayers)
	}
	if len(form.Layers) == 1 {
		return openOne(ctx, form, memory)
	}
	layers := make([]toc.Layer, len(form.Layers))
	group, groupCtx := errgroup.WithContext(ctx) // waited for below
	group.SetLimit(parallelOpens)
	for i, blob := range form.Layers {
		group.Go(func() error {
			content, entries, err := readLayer(groupCtx, blob, memory)
			if err != nil {
				return fmt.Errorf("layer %d: %w", i, err)
			}
			layers[i] = toc.Layer{Entries: all(entries), Content: content}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return lazyblock.Volume{}, errors.Join(fmt.Errorf("open EROFS layers: %w", err), closeAll(layers))
	}
	return toc.Open(ctx, form.ID, layers, toc.Options{})
}

// openOne leaves a single image to the kernel.
func openOne(ctx context.Context, form lazyblock.Form, memory *span.Memory) (lazyblock.Volume, error) {
	plain, frames, err := unwrap(ctx, form.Layers[0], memory)
	if err != nil {
		return lazyblock.Volume{}, fmt.Errorf("open EROFS layer: %w", err)
	}
	super, err := lazyblock.Reread(ctx, plain, ondisk.ReadSuper)
	if err == nil {
		err = flat(super, plain.Size())
	}
	if err != nil {
		return lazyblock.Volume{}, errors.Join(fmt.Errorf("open EROFS layer: %w", err), frames.Close())
	}
	return lazyblock.Volume{FSType: "erofs", Primary: lazyblock.NewDevice(form.ID, plain, frames)}, nil
}

// flat refuses images that are cut, or whose data is somewhere else. Linux looks for that of extra
// devices in the image itself where no device is given (5.16), which is how an
// index of a tar with that tar behind it is mounted.
func flat(super *ondisk.Super, size int64) error {
	if want := int64(super.Blocks) << super.BlockBits; want > size {
		return reason.Errorf(reason.FormatCorrupt, "EROFS image of %d bytes in %d", want, size)
	}
	for i, d := range super.Devices {
		if d.Mapped == 0 || int64(d.Mapped+d.Blocks)<<super.BlockBits > size+super.BlockSize() {
			return reason.Errorf(reason.NotAttachable, "extra device %d (%.64q) of the image is not in it", i+1, d.Tag)
		}
	}
	return nil
}

// unwrap returns the image that is in a blob, by its media type, and what to close
// with it.
func unwrap(ctx context.Context, blob lazyblock.FormBlob, memory *span.Memory) (lazyblock.RangeReader, io.Closer, error) {
	bare, suffix, _ := strings.Cut(blob.Descriptor.MediaType, "+")
	switch {
	case bare != MediaType:
		return nil, nil, reason.Errorf(reason.ArtifactInvalid, "the layer is a %.128q", blob.Descriptor.MediaType)
	case suffix == "":
		return blob.RangeReader, io.NopCloser(nil), nil
	case suffix == "zstd":
		frames, err := seekable.Open(ctx, blob.RangeReader, memory)
		return frames, frames, err
	default:
		return nil, nil, reason.Errorf(reason.NotAttachable, "the layer is compressed as a whole (%.64q) and can only be decoded from the start", suffix)
	}
}

func closeAll(layers []toc.Layer) error {
	var errs []error
	for _, layer := range layers {
		if closer, ok := layer.Content.(io.Closer); ok {
			errs = append(errs, closer.Close())
		}
	}
	return errors.Join(errs...)
}

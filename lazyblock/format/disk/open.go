package disk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/lazyblock"
	"github.com/referee-cri/referee/lazyblock/format/seekable"
	"github.com/referee-cri/referee/lazyblock/format/span"
)

// Media types of the one layer; ZstdSuffix may follow.
const (
	MediaTypeRaw = "application/vnd.referee.disk.layer.v1.raw"
	MediaTypeVHD = "application/vnd.referee.disk.layer.v1.vhd"

	ZstdSuffix = "+zstd" // in the seekable format, with checksums
)

// Open returns the volume that a form of one layer holds. memory keeps decoded
// zstd frames; nil: the volume has its own.
func Open(ctx context.Context, form lazyblock.Form, memory *span.Memory) (lazyblock.Volume, error) {
	if len(form.Layers) != 1 {
		return lazyblock.Volume{}, reason.Errorf(reason.ArtifactInvalid, "open disk: %d layers, want one", len(form.Layers))
	}
	layer := form.Layers[0]
	content, frames, err := unwrap(ctx, layer.RangeReader, layer.Descriptor.MediaType, memory)
	if err != nil {
		return lazyblock.Volume{}, fmt.Errorf("open disk: %w", err)
	}
	fsType, err := lazyblock.Reread(ctx, content, fileSystem)
	if err != nil {
		return lazyblock.Volume{}, errors.Join(fmt.Errorf("open disk: %w", err), frames.Close())
	}
	return lazyblock.Volume{FSType: fsType, Primary: lazyblock.NewDevice(form.ID, content, frames)}, nil
}

// unwrap returns the disk that is in blob, by its media type, and what to close
// with it.
func unwrap(ctx context.Context, blob lazyblock.RangeReader, mediaType string, memory *span.Memory) (lazyblock.RangeReader, io.Closer, error) {
	bare, compressed := strings.CutSuffix(mediaType, ZstdSuffix)
	if bare != MediaTypeRaw && bare != MediaTypeVHD {
		return nil, nil, reason.Errorf(reason.ArtifactInvalid, "its layer is a %.128q", mediaType)
	}
	content, frames := blob, io.Closer(io.NopCloser(nil))
	if compressed {
		reader, err := seekable.Open(ctx, blob, memory)
		if err != nil {
			return nil, nil, err
		}
		content, frames = reader, reader
	}
	if bare == MediaTypeRaw {
		return content, frames, nil
	}
	disk, err := lazyblock.Reread(ctx, content, openVHD)
	if err != nil {
		return nil, nil, errors.Join(err, frames.Close())
	}
	return disk, frames, nil
}

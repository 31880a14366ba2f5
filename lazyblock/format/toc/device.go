package toc

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"sync/atomic"

	"github.com/referee-cri/referee/lazyblock"
)

// device is the disk of a volume. It is safe for concurrent use.
type device struct {
	id       string
	contents []Content // by layer
	places   places
	metadata metadata
	buffers  bufferPool
	closed   atomic.Bool
}

var _ lazyblock.Device = (*device)(nil)

func (d *device) ID() string  { return d.id }
func (d *device) Size() int64 { return d.metadata.size() }

// Close closes the contents and makes further reads fail.
func (d *device) Close() error {
	if d.closed.Swap(true) {
		return nil
	}
	return closeAll(d.contents)
}

// ReadRange implements lazyblock.RangeReader. What belongs to no file reads as
// zeros. When it returns an error other than io.EOF, p holds nothing of use.
func (d *device) ReadRange(ctx context.Context, p []byte, off int64) (int, error) {
	switch {
	case d.closed.Load():
		return 0, fmt.Errorf("read device %s: %w", d.id, fs.ErrClosed)
	case off < 0:
		return 0, fmt.Errorf("read device %s: negative offset %d", d.id, off)
	case len(p) == 0:
		return 0, nil
	case off >= d.Size():
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), d.Size()-off))
	if pieces := d.lookup(p[:n], off); len(pieces) > 0 {
		if err := d.scatter(ctx, pieces); err != nil {
			return 0, fmt.Errorf("read device %s at %d: %w", d.id, off, err)
		}
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// lookup fills p with what is in memory, and zeros, and returns what of it has to
// come from contents.
func (d *device) lookup(p []byte, off int64) []piece {
	end := off + int64(len(p))
	if d.metadata.at <= off { // by far the most reads of metadata
		copy(p, d.metadata.tail[off-d.metadata.at:])
		return nil
	}
	clear(p)
	if head := d.metadata.head; off < int64(len(head)) {
		copy(p, head[off:])
	}
	if d.metadata.at < end {
		copy(p[d.metadata.at-off:], d.metadata.tail)
	}
	var pieces []piece
	for i := d.places.find(off); i < len(d.places) && d.places[i].start() < end; i++ {
		e := &d.places[i]
		from, to := max(off, e.start()), min(end, e.end())
		pieces = append(pieces, piece{layer: e.layer, at: e.at + from - e.start(), dst: p[from-off : to-off]})
	}
	return pieces
}

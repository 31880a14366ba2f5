package toc

import (
	"context"

	"github.com/referee-cri/referee/lazyblock"
)

// disk is the content of a volume's device. It is safe for concurrent use.
type disk struct {
	contents []Content // by layer
	places   places
	metadata metadata
	buffers  bufferPool
}

var _ lazyblock.RangeReader = (*disk)(nil)

func (d *disk) Size() int64 { return d.metadata.size() }

// Close closes the contents.
func (d *disk) Close() error { return closeAll(d.contents) }

// ReadRange implements lazyblock.RangeReader for lazyblock.NewDevice, which asks for
// nothing outside the disk. What belongs to no file reads as zeros. After an error p
// holds nothing of use.
func (d *disk) ReadRange(ctx context.Context, p []byte, off int64) (int, error) {
	if pieces := d.lookup(p, off); len(pieces) > 0 {
		if err := d.scatter(ctx, pieces); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

// lookup fills p with what is in memory, and zeros, and returns what of it has to
// come from contents.
func (d *disk) lookup(p []byte, off int64) []piece {
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

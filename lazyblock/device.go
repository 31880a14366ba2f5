package lazyblock

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"sync/atomic"
)

// deviceAlign is what the sizes of devices are multiples of: the largest block
// size of the file systems that are mounted from them, and of a page.
const deviceAlign = 4096

// rangeDevice is a RangeReader as a disk.
type rangeDevice struct {
	RangeReader

	id     string
	size   int64
	closer io.Closer // may be nil
	closed atomic.Bool
}

// NewDevice makes a device named id of the bytes of r, with zeros behind them up
// to a multiple of 4096. Closing it closes closer, if there is one; r may be
// somebody else's. If r has a method Data, so has the device.
func NewDevice(id string, r RangeReader, closer io.Closer) Device {
	return &rangeDevice{RangeReader: r, id: id, closer: closer, size: (r.Size() + deviceAlign - 1) / deviceAlign * deviceAlign}
}

func (d *rangeDevice) ID() string  { return d.id }
func (d *rangeDevice) Size() int64 { return d.size }

// Data yields offset and length of what is not known to be zeros, or not to be
// read by anybody: what r says, all of it where r says nothing.
func (d *rangeDevice) Data() iter.Seq2[int64, int64] {
	if sparse, ok := d.RangeReader.(interface {
		Data() iter.Seq2[int64, int64]
	}); ok {
		return sparse.Data()
	}
	return func(yield func(off, n int64) bool) { yield(0, d.size) }
}

func (d *rangeDevice) Close() error {
	if d.closed.Swap(true) || d.closer == nil {
		return nil
	}
	return d.closer.Close()
}

func (d *rangeDevice) ReadRange(ctx context.Context, p []byte, off int64) (int, error) {
	switch {
	case d.closed.Load():
		return 0, fmt.Errorf("read device %s: %w", d.id, fs.ErrClosed)
	case off < 0:
		return 0, fmt.Errorf("read device %s: negative offset %d", d.id, off)
	case len(p) == 0:
		return 0, nil
	case off >= d.size:
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), d.size-off))
	stored := int(max(0, min(int64(n), d.RangeReader.Size()-off)))
	if stored > 0 {
		if err := ReadFull(ctx, d.RangeReader, p[:stored], off); err != nil {
			return 0, fmt.Errorf("read device %s: %w", d.id, err)
		}
	}
	clear(p[stored:n])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

package overlaybd

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"slices"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/lazyblock"
)

// Device is a stack of layers, read as the one disk that they are.
//
// It is safe for concurrent use. It holds indexes only: about two bytes for
// each ZFile block, 32 for each segment, and at most 1 MiB of expanded blocks.
type Device struct {
	id       string
	layers   []*layer
	segments []segment // merged, mapped ones only
	size     int64
	cache    blockCache
	readings readings
	closed   atomic.Bool
}

var _ lazyblock.Device = (*Device)(nil)

// Layer is one layer of a stack. Both readers stay the caller's, who closes them
// after the device.
type Layer struct {
	Blob lazyblock.RangeReader // as the registry has it
	// Remote makes it a layer of TurboOCI (spec 5.2): what Blob maps to remote data
	// are sectors of Remote, the uncompressed tar of an image's layer. nil: a native
	// layer, which holds all of its data.
	Remote lazyblock.RangeReader
}

// Open opens a stack of native layers, bottom first, as OpenStack does.
func Open(ctx context.Context, blobs []lazyblock.RangeReader, id string) (*Device, error) {
	layers := make([]Layer, len(blobs))
	for i, blob := range blobs {
		layers[i].Blob = blob
	}
	return OpenStack(ctx, layers, id)
}

// OpenStack opens a stack of layers, bottom first, as one device named id. All
// layers are opened at the same time, each in one round trip if its shape is
// usual, and from buffers that are let go on return. Of Remote only the size is
// looked at.
//
// Bytes that break the format give reason.FormatCorrupt. Where a RangeReader
// is also a lazyblock.Invalidator, they are first dropped and read once more.
func OpenStack(ctx context.Context, layers []Layer, id string) (*Device, error) {
	if len(layers) == 0 || len(layers) > maxLayers {
		return nil, reason.Errorf(reason.FormatCorrupt, "open device %s: %d layers, want 1 to %d", id, len(layers), maxLayers)
	}
	limits := newOpenLimits()
	opened := make([]*layer, len(layers))
	g, gctx := errgroup.WithContext(ctx) // waited for below
	for i, source := range layers {
		g.Go(func() (err error) {
			opened[i], err = openLayer(gctx, i, source, limits)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, fmt.Errorf("open device %s: %w", id, err)
	}
	return newDevice(opened, id)
}

// Prefix returns the device of the first n layers, named id, without reading
// anything. It shares the layers with d; either may be closed first.
func (d *Device) Prefix(n int, id string) (*Device, error) {
	if n < 1 || n > len(d.layers) {
		return nil, fmt.Errorf("open the first %d layers of %d of device %s: out of range", n, len(d.layers), d.id)
	}
	return newDevice(d.layers[:n], id)
}

func newDevice(layers []*layer, id string) (*Device, error) {
	d := &Device{id: id, layers: layers}
	indexes := make([][]segment, len(layers))
	for i, l := range layers {
		indexes[i] = l.segments
		if l.virtualSize != 0 { // the topmost that says so decides (spec 4.7)
			d.size = l.virtualSize / sector * sector
		}
	}
	if d.size == 0 {
		return nil, reason.Errorf(reason.FormatCorrupt, "open device %s: no layer has a virtual size", id)
	}
	d.segments = mergeLayers(indexes)
	return d, nil
}

// Size is the virtual size of the disk in bytes, a multiple of 512.
func (d *Device) Size() int64 { return d.size }

// ID is the name given to Open or Prefix.
func (d *Device) ID() string { return d.id }

// Stored returns which bytes of the blob of a layer hold n bytes from off of
// that layer's LSMT file, clipped to the file: what a record of an access trace
// (spec 6.2) asks to warm. length is 0 where there is nothing.
func (d *Device) Stored(layer int, off, n int64) (blobOff, length int64) {
	if layer < 0 || layer >= len(d.layers) || off < 0 || n <= 0 || off >= d.layers[layer].size {
		return 0, 0
	}
	l := d.layers[layer]
	n = min(n, l.size-off)
	at := span{l.payload.off + off, n}
	if l.z != nil {
		at = l.z.span(int(off/l.z.blockSize), int((off+n-1)/l.z.blockSize))
	}
	return at.off, at.len
}

// Layers is how many layers the stack has.
func (d *Device) Layers() int { return len(d.layers) }

// Close makes further reads fail. Reads under way end by themselves.
func (d *Device) Close() error {
	d.closed.Store(true)
	return nil
}

// ReadRange implements lazyblock.RangeReader. Sectors that no layer has read
// as zeros. When it returns an error other than io.EOF, p holds nothing of use.
func (d *Device) ReadRange(ctx context.Context, p []byte, off int64) (int, error) {
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
	r := d.readings.borrow()
	defer d.readings.giveBack(r)
	if r.pieces = d.lookup(r.pieces, p[:n], off); len(r.pieces) > 0 {
		if err := r.scatter(ctx, &d.cache); err != nil {
			return 0, fmt.Errorf("read device %s at %d: %w", d.id, off, err)
		}
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// maxPiece keeps one piece to what one fetch should carry.
const maxPiece = 1 << 20

// lookup clears the holes of p and appends what is to be read into the rest.
func (d *Device) lookup(pieces []piece, p []byte, off int64) []piece {
	end := off + int64(len(p))
	for at, i := off, d.find(off); at < end; {
		if i == len(d.segments) || byteStart(d.segments[i]) >= end {
			clear(p[at-off:])
			break
		}
		s := d.segments[i]
		if start := byteStart(s); at < start {
			clear(p[at-off : start-off])
			at = start
		}
		stop := min(end, byteStart(s)+int64(s.sectors())*sector)
		owner := d.layers[s.layer()]
		if s.remote() {
			owner = owner.remote
		}
		pieces = appendPiece(pieces, piece{
			layer: owner,
			off:   int64(s.moffset())*sector + at - byteStart(s),
			dst:   p[at-off : stop-off],
		})
		at = stop
		i++
	}
	return pieces
}

// appendPiece appends p, joined with the piece before where the two are
// neighbours at both ends, and in parts where it is long.
func appendPiece(pieces []piece, p piece) []piece {
	if n := len(pieces); n > 0 {
		// Destinations always follow each other unless a hole lies between.
		last := &pieces[n-1]
		adjacent := cap(last.dst)-cap(p.dst) == len(last.dst)
		if adjacent && last.layer == p.layer && last.end() == p.off && len(last.dst)+len(p.dst) <= maxPiece {
			last.dst = last.dst[:len(last.dst)+len(p.dst)]
			return pieces
		}
	}
	for len(p.dst) > maxPiece {
		pieces = append(pieces, piece{p.layer, p.off, p.dst[:maxPiece]})
		p.off, p.dst = p.off+maxPiece, p.dst[maxPiece:]
	}
	return append(pieces, p)
}

func byteStart(s segment) int64 { return int64(s.start()) * sector }

// find returns the first segment that ends after off.
func (d *Device) find(off int64) int {
	i, _ := slices.BinarySearchFunc(d.segments, uint64(off/sector), func(s segment, at uint64) int {
		if s.end() <= at {
			return -1
		}
		return 1
	})
	return i
}

// Data yields offset and length of every range that some layer has stored, in
// order and as long as possible; all else reads as zeros.
func (d *Device) Data() iter.Seq2[int64, int64] {
	return func(yield func(off, n int64) bool) {
		var at span
		for _, s := range d.segments {
			start, stop := byteStart(s), min(d.size, int64(s.end())*sector)
			if start >= d.size {
				break
			}
			if start == at.end() {
				at.len += stop - start
				continue
			}
			if at.len > 0 && !yield(at.off, at.len) {
				return
			}
			at = span{start, stop - start}
		}
		if at.len > 0 {
			yield(at.off, at.len)
		}
	}
}

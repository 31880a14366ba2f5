package erofslayers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sort"

	"golang.org/x/sync/errgroup"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/lazyblock"
	"github.com/referee-cri/referee/lazyblock/erofs/ondisk"
	"github.com/referee-cri/referee/lazyblock/format/toc"
)

// content is the address space in which the files of a layer lie, each
// contiguous. A file that is contiguous in the image is where it is there; others
// get addresses behind the image's end, which a table leads back. It is safe for
// concurrent use once the layer is read.
type content struct {
	image  lazyblock.RangeReader
	pieces []piece // sorted by address
	size   int64
	packed packed
	closer io.Closer
}

var _ toc.Content = (*content)(nil)

// piece is a stored part of a file that is not contiguous. What lies between two
// is zeros.
type piece struct {
	at, length int64
	off        int64 // in the image, or in what is expanded of it
	packed     bool
}

// maxPieces bounds the table of one layer: 96 MiB.
const maxPieces = 4 << 20

// parallelPieces is how many pieces one read has under way.
const parallelPieces = 8

func newContent(image lazyblock.RangeReader) *content {
	return &content{image: image, size: image.Size()}
}

// place gives a file of size bytes an address.
func (c *content) place(super *ondisk.Super, extents []ondisk.Extent, size int64) (int64, error) {
	for i := range extents {
		e := &extents[i]
		if e.Device > 0 { // which is in the image: see flat
			e.Off += int64(super.Devices[e.Device-1].Mapped) << super.BlockBits
		}
		if e.Off > c.image.Size()-e.Length {
			return 0, reason.Errorf(reason.FormatCorrupt, "%d bytes at %d of an image of %d", e.Length, e.Off, c.image.Size())
		}
	}
	if len(extents) == 1 && extents[0].At == 0 && extents[0].Length == size {
		return extents[0].Off, nil
	}
	at, err := c.room(len(extents), size)
	if err != nil {
		return 0, err
	}
	for _, e := range extents {
		c.pieces = append(c.pieces, piece{at: at + e.At, length: e.Length, off: e.Off})
	}
	return at, nil
}

// placeClusters is place for a file that is compressed within the image.
func (c *content) placeClusters(clusters []ondisk.Cluster, size int64) (int64, error) {
	at, err := c.room(len(clusters), size)
	if err != nil {
		return 0, err
	}
	for i := range clusters {
		one := &clusters[i]
		p := piece{at: at + one.At, length: one.Length, off: one.Off}
		if one.Stored > 0 {
			p.off, p.packed = c.packed.add(one), true
		}
		if n := len(c.pieces); n > 0 && c.pieces[n-1].leadsTo(&p) {
			c.pieces[n-1].length += p.length
			continue
		}
		c.pieces = append(c.pieces, p)
	}
	return at, nil
}

// leadsTo tells whether next goes on where p ends, on both sides.
func (p *piece) leadsTo(next *piece) bool {
	return p.packed == next.packed && p.at+p.length == next.at && p.off+p.length == next.off
}

// room gives a file of size bytes in pieces an address behind all others.
func (c *content) room(pieces int, size int64) (int64, error) {
	if len(c.pieces)+len(c.packed.spans)+pieces > maxPieces {
		return 0, reason.Errorf(reason.NotAttachable, "files in more than %d pieces", maxPieces)
	}
	at := c.size
	if size > maxContent-at {
		return 0, reason.Errorf(reason.FormatCorrupt, "files of more than %d bytes", int64(maxContent))
	}
	c.size += size
	return at, nil
}

// maxContent is what 32-bit numbers of 4 KiB blocks can address.
const maxContent = 1 << 44

// Size is the end of the address space.
func (c *content) Size() int64 { return c.size }

// Close lets go of what was decoded.
func (c *content) Close() error { return errors.Join(c.packed.Close(), c.closer.Close()) }

// ReadRange implements lazyblock.RangeReader.
func (c *content) ReadRange(ctx context.Context, p []byte, off int64) (int, error) {
	if off < 0 || off >= c.size {
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), c.size-off))
	if err := c.read(ctx, p[:n], off); err != nil {
		return 0, err
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (c *content) read(ctx context.Context, p []byte, off int64) error {
	end := off + int64(len(p))
	own := max(0, min(end, c.image.Size())-off) // as the image has it
	clear(p[own:])
	var todo []piece
	if own > 0 {
		todo = append(todo, piece{at: off, length: own, off: off})
	}
	first := sort.Search(len(c.pieces), func(i int) bool { return c.pieces[i].at+c.pieces[i].length > off })
	for i := first; i < len(c.pieces) && c.pieces[i].at < end; i++ {
		s := c.pieces[i]
		from, to := max(off, s.at), min(end, s.at+s.length)
		todo = append(todo, piece{at: from, length: to - from, off: s.off + from - s.at, packed: s.packed})
	}
	if len(todo) == 1 {
		return c.readPiece(ctx, p, off, todo[0])
	}
	group, ctx := errgroup.WithContext(ctx) // waited for below
	group.SetLimit(parallelPieces)
	for _, s := range todo {
		group.Go(func() error { return c.readPiece(ctx, p, off, s) })
	}
	return group.Wait()
}

// readPiece fills the part of p, the bytes from off, that s has.
func (c *content) readPiece(ctx context.Context, p []byte, off int64, s piece) error {
	from := c.image
	if s.packed {
		from = c.packed.reader
	}
	if err := lazyblock.ReadFull(ctx, from, p[s.at-off:][:s.length], s.off); err != nil {
		return fmt.Errorf("EROFS image: %w", err)
	}
	return nil
}

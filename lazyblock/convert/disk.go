package convert

import (
	"context"
	"fmt"
	"io"

	"github.com/referee-cri/referee/lazyblock/erofs"
)

// blockBits is log2 of the disk's block size: what Linux 6.1 can mount, and the
// unit in which zeros are left out.
const blockBits = 12

// disk is the file system that grows with every layer.
type disk struct {
	tree    *erofs.Tree
	end     uint64 // first free block
	applied bool   // tree holds the next layer already: writing it ran out of disk
}

func newDisk(limits erofs.Limits) *disk {
	return &disk{tree: erofs.NewTree(limits), end: erofs.HeadBlocks(blockBits, 0)}
}

// addLayer writes what the layer adds to the disk: data, metadata, superblock,
// in this order. verify is called when the tar has been read up to its end mark
// and says whether it was the right one; until then the disk does not change,
// so that an error leaves it as it was.
//
// If size bytes of disk are not enough the error wraps erofs.ErrDiskFull, and
// the same layer may be added again with a larger size.
func (d *disk) addLayer(ctx context.Context, tarball io.Reader, verify func() error, w io.WriterAt, size int64, uuid [16]byte) error {
	limit := uint64(size) >> blockBits
	data := erofs.NewData(w, blockBits, d.end, limit)
	var layer *erofs.Layer
	var sink changes = discard{}
	if !d.applied {
		layer = d.tree.NewLayer()
		sink = layer
	}
	if err := readTar(ctx, tarball, sink, data); err != nil {
		return err
	}
	if err := verify(); err != nil {
		return err
	}
	if err := data.Flush(); err != nil {
		return err
	}
	if layer != nil {
		if err := d.tree.Apply(layer); err != nil {
			return err
		}
		d.applied = true
	}
	layout, err := d.tree.Layout(erofs.LayoutOptions{BlockBits: blockBits, Start: data.Next(), Limit: limit, UUID: uuid})
	if err != nil {
		return err
	}
	if err := layout.Write(ctx, w); err != nil {
		return fmt.Errorf("write metadata: %w", err)
	}
	d.end, d.applied = layout.End(), false
	return nil
}

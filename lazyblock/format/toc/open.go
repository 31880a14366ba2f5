package toc

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"iter"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/lazyblock"
	"github.com/referee-cri/referee/lazyblock/erofs"
)

// Entry is one file as a layer's table of contents tells it, in the order of the
// layer's tar.
type Entry struct {
	Name  string
	Inode erofs.Inode // Data is ignored; Size is that of a regular file
	Link  string      // not empty: Name is another name of this file, which gets the metadata of Inode
	At    int64       // of a regular file with Size > 0: where its bytes begin in the layer's Content
}

// Content is the address space in which a layer's files lie, each contiguous: a
// decompressed tar stream, or an arrangement of the format's own. It may be an
// io.Closer.
type Content interface{ lazyblock.RangeReader }

// Layer is one layer of an image.
type Layer struct {
	// Entries are read once. An error among them ends Open with that error.
	Entries iter.Seq2[Entry, error]
	Content Content // may be nil where no file has bytes
}

// Options of Open. The zero value is good.
type Options struct {
	Limits erofs.Limits // on what all layers may hold
}

// maxLayers bounds a stack. Container runtimes stop at 127 (moby) or where the
// options of an overlayfs mount end.
const maxLayers = 512

// blockBits is log2 of the disk's block size: what Linux 6.1 can mount.
const (
	blockBits = 12
	blockSize = 1 << blockBits
)

// Open merges layers, bottom first, into one volume, whose device is named id.
// The same layers give the same bytes.
//
// Contents belong to the volume from the call on: those that are io.Closers are
// closed with it, or on an error. Entries that break the rules of layers give
// reason.FormatCorrupt.
func Open(ctx context.Context, id string, layers []Layer, opts Options) (_ lazyblock.Volume, err error) {
	contents := make([]Content, len(layers))
	for i, layer := range layers {
		contents[i] = layer.Content
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("open volume %s: %w", id, err), closeAll(contents))
		}
	}()
	if len(layers) == 0 || len(layers) > maxLayers {
		return lazyblock.Volume{}, reason.Errorf(reason.FormatCorrupt, "%d layers, want 1 to %d", len(layers), maxLayers)
	}
	tree := erofs.NewTree(opts.Limits)
	for i, layer := range layers {
		if err := apply(ctx, tree, i, layer); err != nil {
			return lazyblock.Volume{}, fmt.Errorf("layer %d: %w", i, err)
		}
	}
	disk := &disk{contents: contents}
	start := erofs.HeadBlocks(blockBits, 0)
	if disk.places, start, err = place(tree, start); err != nil {
		return lazyblock.Volume{}, err
	}
	if disk.metadata, err = encode(ctx, tree, start, id); err != nil {
		return lazyblock.Volume{}, err
	}
	return lazyblock.Volume{FSType: "erofs", Primary: lazyblock.NewDevice(id, disk, disk)}, nil
}

// checkEvery is how many entries are taken between looks at the context.
const checkEvery = 1024

// apply puts layer i upon tree. Until all are there a file's Data says where its
// bytes are: Device is the layer's number plus one, Block the address in its
// content.
func apply(ctx context.Context, tree *erofs.Tree, i int, layer Layer) error {
	changes := tree.NewLayer()
	size := int64(0)
	if layer.Content != nil {
		size = layer.Content.Size()
	}
	n := 0
	for entry, err := range layer.Entries {
		if err != nil {
			return err
		}
		if n++; n%checkEvery == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		in := entry.Inode
		in.Data = erofs.Extent{}
		switch {
		case entry.Link != "":
			err = changes.Link(entry.Name, entry.Link, in)
		case in.Type() == erofs.TypeRegular && in.Size > 0:
			if entry.At < 0 || entry.At > size || in.Size > size-entry.At {
				return reason.Errorf(reason.FormatCorrupt, "file %.256q of %d bytes at %d is outside the content of %d bytes", entry.Name, in.Size, entry.At, size)
			}
			in.Data = erofs.Extent{Device: uint16(i + 1), Block: uint64(entry.At)}
			err = changes.Add(entry.Name, in)
		default:
			err = changes.Add(entry.Name, in)
		}
		if err != nil {
			return reason.Wrap(reason.FormatCorrupt, err)
		}
	}
	return tree.Apply(changes)
}

// encode writes the metadata of tree, whose files have their places, for a
// device on which block start is the first free one.
func encode(ctx context.Context, tree *erofs.Tree, start uint64, id string) (metadata, error) {
	sum := sha256.Sum256([]byte(id))
	layout, err := tree.Layout(erofs.LayoutOptions{BlockBits: blockBits, Start: start, UUID: [16]byte(sum[:16])})
	if err != nil {
		return metadata{}, reason.Wrap(reason.FormatCorrupt, err)
	}
	m := newMetadata(start, layout.End())
	if err := layout.Write(ctx, &m); err != nil {
		return metadata{}, fmt.Errorf("write metadata: %w", err)
	}
	return m, nil
}

// Close closes the contents of layers that were not given to Open.
func Close(layers []Layer) error {
	contents := make([]Content, len(layers))
	for i, layer := range layers {
		contents[i] = layer.Content
	}
	return closeAll(contents)
}

func closeAll(contents []Content) error {
	var errs []error
	for _, content := range contents {
		if closer, ok := content.(io.Closer); ok {
			errs = append(errs, closer.Close())
		}
	}
	return errors.Join(errs...)
}

package erofslayers

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"path"
	"strings"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/lazyblock"
	"github.com/referee-cri/referee/lazyblock/erofs"
	"github.com/referee-cri/referee/lazyblock/erofs/ondisk"
	"github.com/referee-cri/referee/lazyblock/format/span"
	"github.com/referee-cri/referee/lazyblock/format/toc"
)

// How a layer says what it hides: to overlayfs by attributes and devices 0:0, to
// package toc by names, as in a tar.
const (
	overlayPrefix = "trusted.overlay."
	overlayOpaque = overlayPrefix + "opaque"
	trustedPrefix = "trusted."

	whiteoutPrefix = ".wh."
	whiteoutOpaque = ".wh..wh..opq"
)

// readLayer reads all names and inodes of a layer.
func readLayer(ctx context.Context, blob lazyblock.FormBlob, memory *span.Memory) (*content, []toc.Entry, error) {
	plain, frames, err := unwrap(ctx, blob, memory)
	if err != nil {
		return nil, nil, err
	}
	l, err := lazyblock.Reread(ctx, plain, listLayer)
	if err != nil {
		return nil, nil, errors.Join(err, frames.Close())
	}
	l.content.closer = frames
	if err := l.content.packed.open(plain, l.image.ZeroPadded(), memory); err != nil {
		return nil, nil, errors.Join(err, frames.Close())
	}
	return l.content, l.entries, nil
}

// listing is a layer while it is walked.
type listing struct {
	image   *ondisk.Image
	content *content
	entries []toc.Entry
	names   map[uint64]string // the first name of files that may have several
}

func listLayer(ctx context.Context, r lazyblock.RangeReader) (*listing, error) {
	image, err := ondisk.Open(ctx, r)
	if err != nil {
		return nil, err
	}
	if err := flat(&image.Super, r.Size()); err != nil {
		return nil, err
	}
	if err := image.Warm(ctx); err != nil {
		return nil, err
	}
	l := &listing{image: image, content: newContent(r), names: make(map[uint64]string)}
	return l, image.Walk(ctx, func(name string, f *ondisk.File) error { return l.add(ctx, name, f) })
}

func (l *listing) add(ctx context.Context, name string, f *ondisk.File) error {
	if strings.HasPrefix(path.Base(name), whiteoutPrefix) {
		return reason.Errorf(reason.NotAttachable, "%.256q is named like a whiteout of a tar, and may be one", name)
	}
	entry := toc.Entry{Name: name, Inode: f.Inode}
	opaque, err := takeOverlay(&entry)
	if err != nil {
		return err
	}
	whiteout := f.Inode.Type() == erofs.TypeChar && f.Inode.Major == 0 && f.Inode.Minor == 0
	switch first, known := l.names[f.NID]; {
	case f.Inode.IsDir() || whiteout:
	case known:
		entry.Link = first
	case f.Links > 1:
		l.names[f.NID] = name
	}
	if entry.Link == "" && f.Inode.Type() == erofs.TypeRegular && f.Inode.Size > 0 {
		if entry.At, err = l.place(ctx, f); err != nil {
			return fmt.Errorf("%.256q: %w", name, err)
		}
	}
	l.entries = append(l.entries, entry)
	if opaque {
		l.entries = append(l.entries, toc.Entry{Name: path.Join(name, whiteoutOpaque), Inode: erofs.Inode{Mode: erofs.TypeRegular}})
	}
	return nil
}

// place gives a file an address in the layer's content.
func (l *listing) place(ctx context.Context, f *ondisk.File) (int64, error) {
	if f.Compressed() {
		clusters, err := l.image.Clusters(ctx, f)
		if err != nil {
			return 0, err
		}
		return l.content.placeClusters(clusters, f.Inode.Size)
	}
	extents, err := l.image.Extents(ctx, f)
	if err != nil {
		return 0, err
	}
	return l.content.place(&l.image.Super, extents, f.Inode.Size)
}

// takeOverlay takes the attributes that an unpacked layer would not have, and says
// whether one of them makes a directory opaque.
func takeOverlay(entry *toc.Entry) (opaque bool, err error) {
	var rest erofs.Xattrs
	for _, x := range entry.Inode.Xattrs {
		switch {
		case x.Name == overlayOpaque:
			opaque = entry.Inode.IsDir() && x.Value == "y"
		case x.Name == overlayPrefix+"redirect", x.Name == overlayPrefix+"metacopy":
			return false, reason.Errorf(reason.NotAttachable, "%.256q has the attribute %s: its content is elsewhere", entry.Name, x.Name)
		case strings.HasPrefix(x.Name, trustedPrefix): // as unpacking drops it
		default:
			rest = append(rest, x)
		}
	}
	entry.Inode.Xattrs = rest
	return opaque, nil
}

// all yields entries without errors.
func all(entries []toc.Entry) iter.Seq2[toc.Entry, error] {
	return func(yield func(toc.Entry, error) bool) {
		for _, entry := range entries {
			if !yield(entry, nil) {
				return
			}
		}
	}
}

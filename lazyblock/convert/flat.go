package convert

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/lazyblock/convert/seekable"
	"github.com/referee-cri/referee/lazyblock/convert/source"
	"github.com/referee-cri/referee/lazyblock/erofs"
)

// Media types of a disk (docs/formats.md): as it is, and in seekable zstd.
const (
	MediaTypeDisk     = "application/vnd.referee.disk.layer.v1.raw"
	MediaTypeDiskZstd = MediaTypeDisk + "+zstd"
)

// Flat converts the image to one EROFS file system without layers: metadata first,
// then the files that are left, those of lower layers first. compress wraps it in
// seekable zstd. The result has one layer.
//
// The contents of all layers lie in a second file while it works. Errors are those of
// [Image]; of opts Algorithm and BlockSize do not count.
func Flat(ctx context.Context, image *source.Image, compress bool, opts Options) (_ *Result, err error) {
	opts.setDefaults()
	spool, err := os.CreateTemp(opts.WorkDir, "contents-*")
	if err != nil {
		return nil, fmt.Errorf("make file for contents: %w", err)
	}
	defer func() { err = errors.Join(err, spool.Close(), os.Remove(spool.Name())) }()
	tree, progress, err := merged(ctx, image, opts, spool)
	if err != nil {
		return nil, err
	}
	top := image.ChainIDs[len(image.ChainIDs)-1]
	made := Layer{Descriptor: ocispec.Descriptor{MediaType: MediaTypeDisk}, Path: filepath.Join(opts.WorkDir, "disk.erofs"), ChainID: top}
	disk, err := os.OpenFile(made.Path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err = errors.Join(err, disk.Close()); err != nil {
			_ = os.Remove(made.Path) // best effort: err is what matters
		}
	}()
	if made.Descriptor.Size, err = writeFlat(ctx, tree, spool, disk, erofsUUID(top)); err != nil {
		return nil, err
	}
	if compress {
		if err := wrap(ctx, disk, &made); err != nil {
			return nil, err
		}
	} else if made.Descriptor.Digest, err = digestOf(ctx, io.NewSectionReader(disk, 0, made.Descriptor.Size)); err != nil {
		return nil, err
	}
	progress.done(made.Descriptor.Size)
	config, err := image.ConfigWith([]digest.Digest{made.Descriptor.Digest})
	if err != nil {
		return nil, err
	}
	return &Result{Source: image.Descriptor, ConfigType: ocispec.MediaTypeImageConfig, Config: config, Layers: []Layer{made}}, nil
}

// merged reads all layers into one tree; contents go to spool, in the order in which
// they come.
func merged(ctx context.Context, image *source.Image, opts Options, spool *os.File) (*erofs.Tree, *progress, error) {
	tree := erofs.NewTree(opts.Limits)
	var last *progress
	data := erofs.NewData(spool, blockBits, 0, uint64(opts.MaxSize)>>blockBits)
	for i := range image.Manifest.Layers {
		last = newProgress(image, i, opts, spool)
		layer := tree.NewLayer()
		err := readLayer(ctx, image, i, opts, layer, data, last)
		if err == nil {
			err = tree.Apply(layer)
		}
		if err != nil {
			return nil, nil, fmt.Errorf("convert layer %d of %d, %s: %w", i+1, len(image.DiffIDs), image.Manifest.Layers[i].Digest, err)
		}
		last.report()
	}
	// Zeros at the end were left out.
	return tree, last, spool.Truncate(int64(data.Next()) << blockBits)
}

// writeFlat writes tree, whose files' contents are in spool, and returns the size of
// the disk.
func writeFlat(ctx context.Context, tree *erofs.Tree, spool io.ReaderAt, disk *os.File, uuid [16]byte) (int64, error) {
	var files []*erofs.Inode
	for file := range tree.Files() {
		if file.Size > 0 {
			files = append(files, file)
		}
	}
	slices.SortFunc(files, func(a, b *erofs.Inode) int { return cmp.Compare(a.Data.Block, b.Data.Block) })
	layout, err := tree.Layout(erofs.LayoutOptions{BlockBits: blockBits, Start: erofs.HeadBlocks(blockBits, 0), UUID: uuid})
	if err != nil {
		return 0, reason.Wrap(reason.ArtifactInvalid, err)
	}
	data := erofs.NewData(disk, blockBits, layout.End(), 1<<32-1)
	for _, file := range files {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		content := io.NewSectionReader(spool, int64(file.Data.Block)<<blockBits, file.Size)
		if file.Data, err = data.Append(content, file.Size); err != nil {
			return 0, fmt.Errorf("copy contents: %w", err)
		}
	}
	if err := data.Flush(); err != nil {
		return 0, err
	}
	if err := layout.Write(ctx, disk); err != nil {
		return 0, fmt.Errorf("write metadata: %w", err)
	}
	size := int64(data.Next()) << blockBits
	return size, disk.Truncate(size)
}

// wrap replaces the disk by its compressed form, under the same name.
func wrap(ctx context.Context, disk *os.File, made *Layer) (err error) {
	out, err := os.CreateTemp(filepath.Dir(made.Path), "disk-*")
	if err != nil {
		return fmt.Errorf("make file for compressed disk: %w", err)
	}
	defer func() {
		if err = errors.Join(err, out.Close()); err != nil {
			_ = os.Remove(out.Name()) // best effort: err is what matters
		}
	}()
	digester := digest.Canonical.Digester()
	plain := io.NewSectionReader(disk, 0, made.Descriptor.Size)
	size, err := seekable.Compress(ctx, io.MultiWriter(out, digester.Hash()), plain)
	if err != nil {
		return fmt.Errorf("compress disk: %w", err)
	}
	made.Descriptor = ocispec.Descriptor{MediaType: MediaTypeDiskZstd, Digest: digester.Digest(), Size: size}
	return os.Rename(out.Name(), made.Path)
}

package ztoc

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"

	"github.com/opencontainers/go-digest"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/lazyblock/convert/source"
	"github.com/referee-cri/referee/lazyblock/format/gzindex"
)

// ErrNotIndexed is wrapped by errors that say why a sound layer can have no ztoc.
var ErrNotIndexed = errors.New("the layer cannot be indexed")

// Options say how a layer is indexed. All are required.
type Options struct {
	WorkDir  string // an existing directory, for a copy of the layer
	SpanSize int64  // bytes of plain data between checkpoints, at least
	MaxSize  int64  // bytes of an uncompressed layer
	Progress func(source.Progress)
}

// Layer returns the ztoc of layer i of an image. Errors that blame the image carry a
// reason code.
func Layer(ctx context.Context, image *source.Image, i int, opts Options) (_ []byte, err error) {
	file, err := os.CreateTemp(opts.WorkDir, "layer-*")
	if err != nil {
		return nil, fmt.Errorf("make file for layer: %w", err)
	}
	defer func() { err = errors.Join(err, file.Close(), os.Remove(file.Name())) }()
	b := &builder{file: file, diffID: image.DiffIDs[i], opts: opts}
	report := func(done int64) {
		opts.Progress(source.Progress{
			Layer: i, Layers: len(image.DiffIDs), Read: b.read.Load(), Size: image.Manifest.Layers[i].Size, BlobSize: done,
		})
	}
	b.report = func() { report(0) }
	if err := image.Save(ctx, i, file, &b.read); err != nil {
		return nil, err
	}
	b.size = image.Manifest.Layers[i].Size
	encoded, err := b.build(ctx)
	if err != nil {
		return nil, err
	}
	report(int64(len(encoded)))
	return encoded, nil
}

// builder is one layer at work.
type builder struct {
	file   *os.File
	size   int64 // of file
	diffID digest.Digest
	opts   Options
	read   atomic.Int64
	report func()
}

func (b *builder) build(ctx context.Context) ([]byte, error) {
	var magic [4]byte
	if _, err := b.file.ReadAt(magic[:], 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read layer: %w", err)
	}
	t := table{compressedSize: b.size}
	var err error
	switch {
	case magic[0] == 0x1f && magic[1] == 0x8b: // RFC 1952
		err = b.gzip(ctx, &t)
	case magic == [4]byte{0x28, 0xb5, 0x2f, 0xfd}, magic[0]&0xf0 == 0x50 && [3]byte(magic[1:]) == [3]byte{0x2a, 0x4d, 0x18}: // RFC 8878
		err = fmt.Errorf("%w: it is compressed by zstd, which SOCI does not read", ErrNotIndexed)
	default:
		err = b.plain(ctx, &t)
	}
	if err != nil {
		return nil, err
	}
	return t.encode()
}

// gzip fills t for a compressed layer.
func (b *builder) gzip(ctx context.Context, t *table) error {
	c := &checkpoints{spanSize: b.opts.SpanSize}
	r := gzindex.NewReader(b.whole(ctx), c.visit)
	if err := b.contents(ctx, r, t); err != nil {
		return err
	}
	plainSize, _ := r.Offsets()
	spans, err := c.spans(b.size, plainSize)
	if err != nil {
		return err
	}
	t.algorithm = algorithmGzip
	if t.checkpoints, err = c.encode(); err != nil {
		return err
	}
	for _, span := range spans {
		if err := b.addSpan(ctx, t, span); err != nil {
			return err
		}
	}
	return nil
}

// plain fills t for a layer that is not compressed: its spans are of one length.
func (b *builder) plain(ctx context.Context, t *table) error {
	if err := b.contents(ctx, b.whole(ctx), t); err != nil {
		return err
	}
	t.algorithm = algorithmPlain
	t.checkpoints = tarZinfo(b.opts.SpanSize, b.size)
	for at := int64(0); at < b.size; at += b.opts.SpanSize {
		if err := b.addSpan(ctx, t, extent{at, min(b.opts.SpanSize, b.size-at)}); err != nil {
			return err
		}
	}
	return nil
}

// whole reads the layer's file from its beginning until its context ends.
func (b *builder) whole(ctx context.Context) io.Reader {
	return bufio.NewReaderSize(source.Within(ctx, io.NewSectionReader(b.file, 0, b.size)), 1<<20)
}

// contents lists what the tar r holds, reads r to its end, and checks the diff ID.
func (b *builder) contents(ctx context.Context, r io.Reader, t *table) error {
	diff := b.diffID.Verifier()
	plain := &limited{r: io.TeeReader(r, diff), left: b.opts.MaxSize}
	if err := t.list(ctx, plain, b.report); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, plain); err != nil {
		return reason.Wrap(reason.ArtifactInvalid, fmt.Errorf("read layer: %w", err))
	}
	if !diff.Verified() {
		return reason.Errorf(reason.DigestMismatch, "layer's plain bytes are not those of diff ID %s", b.diffID)
	}
	return nil
}

func (b *builder) addSpan(ctx context.Context, t *table, span extent) error {
	digester := digest.Canonical.Digester()
	if _, err := io.Copy(digester.Hash(), source.Within(ctx, io.NewSectionReader(b.file, span.at, span.length))); err != nil {
		return fmt.Errorf("hash span: %w", err)
	}
	t.spans = append(t.spans, digester.Digest())
	return nil
}

// limited ends after left bytes with an error.
type limited struct {
	r    io.Reader
	left int64
}

func (l *limited) Read(p []byte) (int, error) {
	n, err := l.r.Read(p)
	if l.left -= int64(n); l.left < 0 {
		return 0, reason.Errorf(reason.ArtifactInvalid, "%w", source.ErrTooLarge)
	}
	return n, err
}

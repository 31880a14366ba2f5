// Package plainlayer opens layers that have no table of contents, as they stand
// among layers that have one: a layer is read to its end once, compared with its
// digest, and indexed on the way, so that it can be read from its middle afterwards.
//
// gzip layers are given checkpoints (package gzindex), zstd layers are read frame by
// frame, uncompressed ones need nothing.
// It is for small layers: a start has to wait for all their bytes. It starts no
// goroutines and keeps nothing on disk.
package plainlayer

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/lazyblock"
	"github.com/referee-cri/referee/lazyblock/format/gzindex"
	"github.com/referee-cri/referee/lazyblock/format/span"
	"github.com/referee-cri/referee/lazyblock/format/toc"
)

// MaxStored bounds all such layers of an image, as they are stored, because they are
// read to their end before anything starts. SOCI's writers leave out layers below
// 10 MiB.
const MaxStored = 64 << 20

// Bounds on one layer.
const (
	maxTar     = 1 << 30 // inflated
	maxEntries = 1 << 18
	spanSize   = 1 << 20 // inflated, as far as blocks of gzip allow
)

// Check refuses, with reason.NoMatch, an image of which more than MaxStored bytes
// are in such layers.
func Check(blobs []lazyblock.FormBlob) error {
	stored := int64(0)
	for _, blob := range blobs {
		stored += blob.Size()
	}
	if stored > MaxStored {
		return reason.Errorf(reason.NoMatch, "%d layers of %d bytes have no table and would have to be read to their end, more than %d bytes", len(blobs), stored, MaxStored)
	}
	return nil
}

// piece is how much is asked for at a time: what a slow link brings in a few round
// trips.
const piece = 4 << 20

// layer is what was learned of a layer without a table.
type layer struct {
	entries []toc.Entry
	gzip    *gzindex.Index // nil: it is not gzip
	zstd    *frames        // nil: it is not zstd
	size    int64          // of the tar
	sums    span.Digests   // of the spans, inflated
}

// Open reads a layer to its end, compares it with its digest, and indexes it.
// Wrong bytes are dropped from the cache below and read once more.
func Open(ctx context.Context, blob lazyblock.FormBlob, memory *span.Memory) (toc.Layer, error) {
	l, err := read(ctx, blob)
	cache, ok := blob.RangeReader.(lazyblock.Invalidator)
	if code := reason.Of(err); ok && (code == reason.FormatCorrupt || code == reason.DigestMismatch) {
		_ = cache.Invalidate(ctx, 0, blob.Size()) // what counts is that they are read anew now
		l, err = read(ctx, blob)
	}
	if err != nil {
		return toc.Layer{}, err
	}
	content, err := l.content(blob.RangeReader, memory)
	if err != nil {
		return toc.Layer{}, err
	}
	return toc.Layer{Entries: l.all, Content: content}, nil
}

func (l *layer) all(yield func(toc.Entry, error) bool) {
	for _, entry := range l.entries {
		if !yield(entry, nil) {
			return
		}
	}
}

// content reads the layer's tar, span by span, each compared with what was read first.
func (l *layer) content(blob lazyblock.RangeReader, memory *span.Memory) (*span.Reader, error) {
	if l.gzip != nil {
		return l.gzip.Content(blob, gzindex.ContentOptions{Inflated: l.sums.Verify, Memory: memory})
	}
	if l.zstd != nil {
		return l.zstd.content(blob, l.sums, memory)
	}
	spans := make([]span.Span, len(l.sums))
	for i := range spans {
		at := int64(i) * spanSize
		n := min(spanSize, l.size-at)
		spans[i] = span.Span{At: at, Size: n, Off: at, Stored: n}
	}
	return span.New(blob, spans, l.sums.Copy, span.Options{Memory: memory})
}

func read(ctx context.Context, blob lazyblock.FormBlob) (*layer, error) {
	want := blob.Descriptor.Digest
	if err := want.Validate(); err != nil {
		return nil, reason.Errorf(reason.ArtifactInvalid, "digest %q: %w", want, err)
	}
	verifier := want.Verifier()
	ahead := bufio.NewReaderSize(&forward{ctx: ctx, r: blob}, int(min(piece, blob.Size())))
	stored := io.TeeReader(ahead, verifier)
	l, err := index(stored, blob.Size())
	if err != nil {
		return nil, err
	}
	if !verifier.Verified() {
		return nil, reason.Errorf(reason.DigestMismatch, "its bytes do not hash to %s", want)
	}
	return l, nil
}

// forward reads a blob from its beginning. It lives no longer than the call that
// made it.
type forward struct {
	ctx context.Context //nolint:containedctx // bound for the length of one pass
	r   lazyblock.RangeReader
	off int64
}

func (f *forward) Read(p []byte) (int, error) {
	left := f.r.Size() - f.off
	if left <= 0 {
		return 0, io.EOF
	}
	p = p[:min(int64(len(p)), left)]
	n, err := f.r.ReadRange(f.ctx, p, f.off)
	f.off += int64(n)
	if n == len(p) {
		return n, nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = fmt.Errorf("read layer: it ends at %d of %d bytes: %w", f.off, f.r.Size(), io.ErrUnexpectedEOF)
	}
	return n, err
}

package estargz

import (
	"bufio"
	"bytes"
	"context"
	"io"

	"github.com/referee-cri/referee/lazyblock"
)

// The tail of a blob that is read to find footer and table in one round trip. A
// table takes, compressed, some 1 to 2 % of a layer.
const (
	tailPart  = 64 // one part in so many
	minTail   = 64 << 10
	maxTail   = 1 << 20
	readPiece = 4 << 20 // bytes of a table that are read at a time beyond it
)

// ending is a blob of which the end has been read already.
type ending struct {
	blob lazyblock.RangeReader
	at   int64 // where tail begins
	tail []byte
}

// readEnding reads the end of a blob.
func readEnding(ctx context.Context, blob lazyblock.RangeReader) (*ending, error) {
	size := blob.Size()
	n := min(size, max(minTail, min(size/tailPart, maxTail)))
	e := &ending{blob: blob, at: size - n, tail: make([]byte, n)}
	return e, lazyblock.ReadFull(ctx, blob, e.tail, e.at)
}

// section reads [from, to) of the blob.
func (e *ending) section(ctx context.Context, from, to int64) io.Reader {
	behind := bytes.NewReader(e.tail[max(from, e.at)-e.at : max(to, e.at)-e.at])
	before := min(to, e.at) - from
	if before <= 0 {
		return behind
	}
	return io.MultiReader(stream(ctx, e.blob, from, before), behind)
}

// stream reads n bytes of blob from off, in pieces.
func stream(ctx context.Context, blob lazyblock.RangeReader, off, n int64) io.Reader {
	return bufio.NewReaderSize(io.NewSectionReader(lazyblock.ReaderAt(ctx, blob), off, n), int(min(n, readPiece)))
}

// forget drops from the cache below, if there is one, what was read from byte
// from on, and reports whether it is worth reading again.
func forget(ctx context.Context, blob lazyblock.RangeReader, from int64) bool {
	cache, ok := blob.(lazyblock.Invalidator)
	if !ok {
		return false
	}
	_ = cache.Invalidate(ctx, from, blob.Size()-from) // what counts is that it is read anew now
	return true
}

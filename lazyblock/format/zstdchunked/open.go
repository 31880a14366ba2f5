package zstdchunked

import (
	"bufio"
	"context"
	"io"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/lazyblock"
	"github.com/referee-cri/referee/lazyblock/format/span"
	"github.com/referee-cri/referee/lazyblock/format/stargztoc"
)

// Options of Open. The zero value is good.
type Options struct {
	Memory *span.Memory // keeps decoded chunks; nil: one for each layer
}

// readPiece is how many bytes of a table are read at a time.
const readPiece = 4 << 20

// Open opens a form as a volume. All layers are opened side by side, each in one
// round trip.
//
// Bytes that break the format give reason.FormatCorrupt; they are first dropped
// from the cache below and read once more. reason.ArtifactInvalid is for layers
// whose annotations do not say where the table is. Layers without them are read to
// their end and compared with their digest, as long as they are small: else the
// error has reason.NoMatch.
func Open(ctx context.Context, form lazyblock.Form, opts Options) (lazyblock.Volume, error) {
	return stargztoc.Open(ctx, form, stargztoc.Format{Has: hasTable, Table: readLayer, Expand: expand, Memory: opts.Memory})
}

// readLayer reads a layer's table and tells where the files' bytes end in its blob.
func readLayer(ctx context.Context, layer *lazyblock.FormBlob, budget *stargztoc.Budget) (*stargztoc.Table, int64, error) {
	at, err := positionOf(layer.Descriptor)
	if err != nil {
		return nil, 0, reason.Wrap(reason.ArtifactInvalid, err)
	}
	table, err := readTable(ctx, layer.RangeReader, at, budget)
	if cache, ok := layer.RangeReader.(lazyblock.Invalidator); ok && reason.Of(err) == reason.FormatCorrupt {
		_ = cache.Invalidate(ctx, at.off, at.stored) // what counts is that it is read anew now
		table, err = readTable(ctx, layer.RangeReader, at, budget)
	}
	return table, at.end(), err
}

// readTable reads the table, whose stored bytes must have the digest at.digest.
func readTable(ctx context.Context, blob lazyblock.RangeReader, at position, budget *stargztoc.Budget) (table *stargztoc.Table, err error) {
	section := io.NewSectionReader(lazyblock.ReaderAt(ctx, blob), at.off, at.stored)
	source := &stargztoc.Witness{R: bufio.NewReaderSize(section, int(min(at.stored, readPiece)))}
	verifier := at.digest.Verifier()
	stored := io.TeeReader(source, verifier)
	err = withDecoder(stored, func(r io.Reader) error {
		document := &io.LimitedReader{R: r, N: at.size}
		if table, err = stargztoc.Parse(ctx, document, budget); err != nil {
			return err
		}
		_, err := io.Copy(io.Discard, stored) // what the parser left
		return err
	})
	switch {
	case source.Err != nil:
		return nil, source.Err
	case err != nil:
		return nil, reason.Wrap(reason.FormatCorrupt, err)
	case !verifier.Verified():
		return nil, reason.Errorf(reason.FormatCorrupt, "the table has not the digest %s that its image says", at.digest)
	}
	return table, nil
}

package estargz

import (
	"archive/tar"
	"context"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/lazyblock/format/stargztoc"
)

// tocName is the tar entry that holds the table.
const tocName = "stargz.index.json"

// readTable reads the table from a gzip member with a tar of one entry, whose
// bytes must have the digest want.
func readTable(ctx context.Context, compressed io.Reader, want digest.Digest, budget *stargztoc.Budget) (*stargztoc.Table, error) {
	source := &stargztoc.Witness{R: compressed}
	z, err := gzip.NewReader(source)
	if err != nil {
		return nil, blame(source, fmt.Errorf("gzip around the table: %w", err))
	}
	z.Multistream(false) // the footer is a member, too
	tr := tar.NewReader(z)
	header, err := tr.Next()
	switch {
	case err != nil:
		return nil, blame(source, fmt.Errorf("tar around the table: %w", err))
	case header.Name != tocName || header.Typeflag != tar.TypeReg:
		return nil, reason.Errorf(reason.FormatCorrupt, "found %.64q where the table should be", header.Name)
	case header.Size > stargztoc.MaxBytes:
		return nil, reason.Errorf(reason.FormatCorrupt, "table of %d bytes, more than %d", header.Size, stargztoc.MaxBytes)
	}
	verifier := want.Verifier()
	document := io.TeeReader(tr, verifier)
	table, err := stargztoc.Parse(ctx, document, budget)
	if err != nil {
		return nil, blame(source, err)
	}
	if _, err := io.Copy(io.Discard, document); err != nil { // what the parser left
		return nil, blame(source, fmt.Errorf("read to the end of the table: %w", err))
	}
	if !verifier.Verified() {
		return nil, reason.Errorf(reason.FormatCorrupt, "the table has not the digest %s that its image says", want)
	}
	return table, nil
}

// blame returns the error of the blob, if there was one, else err as the format's.
func blame(source *stargztoc.Witness, err error) error {
	if source.Err != nil {
		return source.Err
	}
	return reason.Wrap(reason.FormatCorrupt, err)
}

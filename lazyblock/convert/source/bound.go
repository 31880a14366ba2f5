package source

import (
	"archive/tar"
	"context"
	"errors"
	"io"

	"github.com/referee-cri/referee/internal/reason"
)

// Within reads r until ctx ends. It is for one pass that ends before the call that
// made it.
func Within(ctx context.Context, r io.Reader) io.Reader { return within{ctx, r} }

type within struct {
	ctx context.Context //nolint:containedctx // bound for the length of one pass
	r   io.Reader
}

func (w within) Read(p []byte) (int, error) {
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	return w.r.Read(p)
}

// Entry reads the entry that tr stands at until ctx ends, and blames the tar, by
// reason.ArtifactInvalid, for what else goes wrong.
func Entry(ctx context.Context, tr *tar.Reader) io.Reader { return Within(ctx, entry{tr}) }

type entry struct{ tr *tar.Reader }

func (e entry) Read(p []byte) (int, error) {
	n, err := e.tr.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = reason.Wrap(reason.ArtifactInvalid, err)
	}
	return n, err
}

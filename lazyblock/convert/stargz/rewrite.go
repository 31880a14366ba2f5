package stargz

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/lazyblock/convert/source"
)

// rewrite copies a tar without what the library stumbles over: sparse files are
// written out, contiguous ones are plain ones, global headers are left out. It returns
// the hard links.
func rewrite(ctx context.Context, r io.Reader, w io.Writer) (links, error) {
	tr, tw := tar.NewReader(r), tar.NewWriter(w)
	found := links{}
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		header, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return found, tw.Close()
		}
		if err != nil {
			return nil, reason.Errorf(reason.ArtifactInvalid, "read tar header: %w", err)
		}
		if header.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		found.note(header)
		if err := copyEntry(ctx, tw, tr, header); err != nil {
			return nil, fmt.Errorf("copy %.256q: %w", header.Name, err)
		}
	}
}

func copyEntry(ctx context.Context, tw *tar.Writer, tr *tar.Reader, header *tar.Header) error {
	if header.Typeflag == tar.TypeCont || header.Typeflag == tar.TypeGNUSparse {
		header.Typeflag, header.Format = tar.TypeReg, tar.FormatPAX
	}
	err := tw.WriteHeader(header)
	if errors.Is(err, tar.ErrHeader) && header.Format != tar.FormatPAX {
		header.Format = tar.FormatPAX // it can say all that the others can
		err = tw.WriteHeader(header)
	}
	if err != nil {
		return reason.Wrap(reason.ArtifactInvalid, err)
	}
	_, err = io.Copy(tw, source.Entry(ctx, tr))
	return err
}

// written counts what is written, up to a limit.
type written struct {
	w       io.Writer
	n, left int64
	report  func(int64)
}

func (w *written) Write(p []byte) (int, error) {
	if w.left -= int64(len(p)); w.left < 0 {
		return 0, reason.Errorf(reason.ArtifactInvalid, "%w", source.ErrTooLarge)
	}
	n, err := w.w.Write(p)
	w.n += int64(n)
	w.report(w.n)
	return n, err
}

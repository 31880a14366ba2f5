package convert

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/lazyblock/convert/source"
	"github.com/referee-cri/referee/lazyblock/erofs"
	"github.com/referee-cri/referee/lazyblock/tarinode"
)

// changes takes what a layer's tar says; *erofs.Layer is the real one.
type changes interface {
	Add(name string, in erofs.Inode) error
	Link(name, target string, meta erofs.Inode) error
}

// discard forgets a layer that has been taken already.
type discard struct{}

func (discard) Add(string, erofs.Inode) error          { return nil }
func (discard) Link(string, string, erofs.Inode) error { return nil }

// readTar reads a layer's tar up to its end mark: file contents to data, all
// else to layer.
func readTar(ctx context.Context, r io.Reader, layer changes, data *erofs.Data) error {
	tr := tar.NewReader(r)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		header, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return reason.Errorf(reason.ArtifactInvalid, "read tar header: %w", err)
		}
		if err := readEntry(ctx, tr, header, layer, data); err != nil {
			return err
		}
	}
}

func readEntry(ctx context.Context, tr *tar.Reader, header *tar.Header, layer changes, data *erofs.Data) error {
	if header.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	in, err := tarinode.Of(header)
	if err != nil {
		return reason.Errorf(reason.ArtifactInvalid, "tar entry %.256q: %w", header.Name, err)
	}
	switch header.Typeflag {
	case tar.TypeLink:
		return reason.Wrap(reason.ArtifactInvalid, layer.Link(header.Name, header.Linkname, in))
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		in.Size = header.Size
		if in.Data, err = data.Append(source.Entry(ctx, tr), header.Size); err != nil {
			return fmt.Errorf("copy %.256q: %w", header.Name, err)
		}
	}
	return reason.Wrap(reason.ArtifactInvalid, layer.Add(header.Name, in))
}

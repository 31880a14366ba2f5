package turbooci

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"path"

	"github.com/referee-cri/referee/internal/layerstream"
	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/lazyblock"
	"github.com/referee-cri/referee/lazyblock/format/whole"
)

// Members of a layer's archive (spec 5.1).
const (
	memberExt4  = "ext4.fs.meta"
	memberEROFS = "erofs.fs.meta"
	memberGzip  = "gzip.meta"
)

// Bounds on an archive. The metadata of 100,000 files is some MiB, and checkpoints
// take 10 MiB for 1 GiB of layer.
const (
	maxArchive = 128 << 20 // as it is stored
	maxMember  = 256 << 20
	maxMembers = 16
)

// archive is what a layer's archive holds.
type archive struct {
	fs   []byte // the LSMT file, compressed or not
	gzip []byte // gzip.meta, nil without
}

// readArchive reads the archive of a layer, compared with its digest.
func readArchive(ctx context.Context, blob lazyblock.FormBlob) (*archive, error) {
	stored, err := whole.Read(ctx, blob, maxArchive)
	if err != nil {
		return nil, err
	}
	return parseArchive(ctx, stored)
}

func parseArchive(ctx context.Context, stored []byte) (*archive, error) {
	r, err := layerstream.Decompress(bytes.NewReader(stored))
	if err != nil {
		return nil, reason.Wrap(reason.FormatCorrupt, err)
	}
	defer r.Close()
	found := map[string][]byte{}
	total := int64(0)
	tr := tar.NewReader(r)
	for n := 0; ; n++ {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		header, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, reason.Errorf(reason.FormatCorrupt, "read archive: %w", err)
		}
		name := path.Clean(header.Name)
		if total += header.Size; n >= maxMembers || header.Size < 0 || total > maxMember {
			return nil, reason.Errorf(reason.FormatCorrupt, "archive of more than %d members or %d bytes", maxMembers, maxMember)
		}
		switch name {
		case memberExt4, memberEROFS, memberGzip:
			if found[name], err = readMember(tr); err != nil {
				return nil, reason.Errorf(reason.FormatCorrupt, "read %s: %w", name, err)
			}
		}
	}
	a := &archive{fs: found[memberExt4], gzip: found[memberGzip]}
	if a.fs == nil {
		a.fs = found[memberEROFS]
	}
	if len(a.fs) == 0 {
		return nil, reason.Errorf(reason.FormatCorrupt, "archive without %s and %s", memberExt4, memberEROFS)
	}
	return a, nil
}

// readMember reads a member as far as it is there: nothing is allocated on the word
// of its header.
func readMember(r io.Reader) ([]byte, error) {
	var b bytes.Buffer
	if _, err := io.Copy(&b, r); err != nil {
		return nil, err
	}
	return bytes.Clone(b.Bytes()), nil
}

package convert

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"time"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/lazyblock/erofs"
)

// xattrRecord begins the PAX records of extended attributes, as every tool that
// makes layers writes them.
const xattrRecord = "SCHILY.xattr."

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
	in, err := inode(header)
	if err != nil {
		return reason.Errorf(reason.ArtifactInvalid, "tar entry %.256q: %w", header.Name, err)
	}
	switch header.Typeflag {
	case tar.TypeLink:
		return reason.Wrap(reason.ArtifactInvalid, layer.Link(header.Name, header.Linkname, in))
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		in.Size = header.Size
		if in.Data, err = data.Append(entryContent{ctx, tr}, header.Size); err != nil {
			return fmt.Errorf("copy %.256q: %w", header.Name, err)
		}
	}
	return reason.Wrap(reason.ArtifactInvalid, layer.Add(header.Name, in))
}

// entryContent reads one entry until its context ends, and blames the tar for what
// else goes wrong. It lives no longer than the call that made it.
type entryContent struct {
	ctx context.Context //nolint:containedctx // bound for the length of one copy
	tr  *tar.Reader
}

func (c entryContent) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := c.tr.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = reason.Wrap(reason.ArtifactInvalid, err)
	}
	return n, err
}

// inode turns a header into an inode without data.
func inode(header *tar.Header) (erofs.Inode, error) {
	var in erofs.Inode
	switch header.Typeflag {
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse, tar.TypeLink:
		in.Mode = erofs.TypeRegular
	case tar.TypeDir:
		in.Mode = erofs.TypeDir
	case tar.TypeSymlink:
		in.Mode, in.Target = erofs.TypeSymlink, header.Linkname
	case tar.TypeChar:
		in.Mode = erofs.TypeChar
	case tar.TypeBlock:
		in.Mode = erofs.TypeBlock
	case tar.TypeFifo:
		in.Mode = erofs.TypeFIFO
	default:
		return in, fmt.Errorf("%w: entry type %q", erofs.ErrInvalid, header.Typeflag)
	}
	if header.Uid < 0 || header.Gid < 0 || header.Uid > math.MaxUint32 || header.Gid > math.MaxUint32 {
		return in, fmt.Errorf("%w: owner %d:%d", erofs.ErrInvalid, header.Uid, header.Gid)
	}
	if header.Devmajor < 0 || header.Devminor < 0 || header.Devmajor > math.MaxUint32 || header.Devminor > math.MaxUint32 {
		return in, fmt.Errorf("%w: device %d:%d", erofs.ErrInvalid, header.Devmajor, header.Devminor)
	}
	in.Mode |= uint32(header.Mode) & 0o7777
	in.UID, in.GID = uint32(header.Uid), uint32(header.Gid)
	in.Major, in.Minor = uint32(header.Devmajor), uint32(header.Devminor)
	in.Mtime, in.Nsec = mtime(header.ModTime)
	in.Xattrs = xattrs(header.PAXRecords)
	return in, nil
}

// mtime bounds a time as containerd's unpacking does: what is before 1970 or
// does not fit 64 bits of nanoseconds becomes 1970.
func mtime(t time.Time) (sec int64, nsec uint32) {
	if t.Before(time.Unix(0, 0)) || t.After(time.Unix(0, math.MaxInt64)) {
		return 0, 0
	}
	return t.Unix(), uint32(t.Nanosecond())
}

// xattrs picks the attributes that unpacking would set: trusted.* is not for
// images to set (overlayfs would obey trusted.overlay.*), and namespaces that
// Linux does not know are ignored.
func xattrs(records map[string]string) erofs.Xattrs {
	var found map[string]string
	for key, value := range records {
		name, ok := strings.CutPrefix(key, xattrRecord)
		if !ok || strings.HasPrefix(name, "trusted.") || !erofs.SupportedXattr(name) {
			continue
		}
		if found == nil {
			found = make(map[string]string)
		}
		found[name] = value
	}
	return erofs.NewXattrs(found)
}

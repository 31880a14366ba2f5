// Package tarinode tells which inode an entry of an image layer becomes where
// containerd unpacks the layer: which times, owners and attributes survive.
//
// It only translates; what entries add up to is package erofs' concern. It never
// reads tar itself and starts no goroutines.
package tarinode

import (
	"archive/tar"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/referee-cri/referee/lazyblock/erofs"
)

// xattrRecord begins the PAX records of extended attributes, as every tool that
// makes layers writes them.
const xattrRecord = "SCHILY.xattr."

// Of turns a tar header into an inode without size and data. That of a hard
// link holds the metadata of a regular file. Errors wrap erofs.ErrInvalid.
func Of(header *tar.Header) (erofs.Inode, error) {
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
	in.Mtime, in.Nsec = Mtime(header.ModTime)
	in.Xattrs = PAXXattrs(header.PAXRecords)
	return in, nil
}

// Mtime bounds a time as unpacking does: what is before 1970 or does not fit 64
// bits of nanoseconds becomes 1970.
func Mtime(t time.Time) (sec int64, nsec uint32) {
	if t.Before(time.Unix(0, 0)) || t.After(time.Unix(0, math.MaxInt64)) {
		return 0, 0
	}
	return t.Unix(), uint32(t.Nanosecond())
}

// KeepsXattr reports whether unpacking would set the attribute name: trusted.* is
// not for images to set (overlayfs would obey trusted.overlay.*), and namespaces
// that Linux does not know are ignored.
func KeepsXattr(name string) bool {
	return !strings.HasPrefix(name, "trusted.") && erofs.SupportedXattr(name)
}

// Xattrs picks the attributes, by their names, that unpacking would set.
func Xattrs(attributes map[string]string) erofs.Xattrs {
	var found map[string]string
	for name, value := range attributes {
		if !KeepsXattr(name) {
			continue
		}
		if found == nil {
			found = make(map[string]string)
		}
		found[name] = value
	}
	return erofs.NewXattrs(found)
}

// PAXXattrs picks from a header's PAX records the attributes that unpacking would set.
func PAXXattrs(records map[string]string) erofs.Xattrs {
	var found map[string]string
	for key, value := range records {
		name, ok := strings.CutPrefix(key, xattrRecord)
		if !ok || !KeepsXattr(name) {
			continue
		}
		if found == nil {
			found = make(map[string]string)
		}
		found[name] = value
	}
	return erofs.NewXattrs(found)
}

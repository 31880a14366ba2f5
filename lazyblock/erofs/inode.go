package erofs

import (
	"errors"
	"fmt"
	"strings"
)

// File types as in st_mode (inode(7)).
const (
	TypeMask    = 0o170000
	TypeFIFO    = 0o010000
	TypeChar    = 0o020000
	TypeDir     = 0o040000
	TypeBlock   = 0o060000
	TypeRegular = 0o100000
	TypeSymlink = 0o120000
	TypeSocket  = 0o140000

	permMask = 0o7777
	setGID   = 0o2000
)

// Bounds of what Linux can have made itself.
const (
	MaxName   = 255  // bytes in one name
	MaxPath   = 4095 // bytes in a path, as PATH_MAX without its NUL
	MaxTarget = 4095 // bytes in a symbolic link
	maxSize   = 1<<63 - 1

	maxMajor = 1<<12 - 1 // of a device number, linux/kdev_t.h
	maxMinor = 1<<20 - 1
)

// ErrInvalid is wrapped by every error that blames the image, not the machine.
var ErrInvalid = errors.New("invalid image content")

// Inode is a file of any type: all names of a hard link share one.
type Inode struct {
	Mode     uint32 // st_mode: one of the types and twelve permission bits
	UID, GID uint32
	Mtime    int64 // seconds since 1970
	Nsec     uint32
	Size     int64  // bytes of a regular file; ignored for other types
	Data     Extent // where a regular file's bytes are
	Target   string // of a symbolic link
	Major    uint32 // of a device
	Minor    uint32
	Xattrs   Xattrs

	children map[string]*Inode // of a directory
	flags    uint8             // only while the inode is part of a Layer
	place    placement         // scratch of the last Layout
}

// Extent is where a regular file's bytes are: contiguous, from the start of a block.
type Extent struct {
	Device uint16 // 0: this image; n: the nth of LayoutOptions.Devices
	Block  uint64 // in blocks of the image's block size
}

// Type returns the type bits of the mode.
func (i *Inode) Type() uint32 { return i.Mode & TypeMask }

// IsDir reports whether i is a directory.
func (i *Inode) IsDir() bool { return i.Type() == TypeDir }

// check refuses what no file system could hold.
func (i *Inode) check() error {
	switch i.Type() {
	case TypeDir, TypeFIFO, TypeSocket:
	case TypeRegular:
		if i.Size < 0 {
			return fmt.Errorf("%w: negative size %d", ErrInvalid, i.Size)
		}
	case TypeSymlink:
		if n := len(i.Target); n == 0 || n > MaxTarget || strings.IndexByte(i.Target, 0) >= 0 {
			return fmt.Errorf("%w: symbolic link target of %d bytes, or with a NUL", ErrInvalid, n)
		}
	case TypeChar, TypeBlock:
		if i.Major > maxMajor || i.Minor > maxMinor {
			return fmt.Errorf("%w: device number %d:%d", ErrInvalid, i.Major, i.Minor)
		}
	default:
		return fmt.Errorf("%w: file type %#o", ErrInvalid, i.Type())
	}
	if i.Nsec >= 1e9 {
		return fmt.Errorf("%w: %d nanoseconds", ErrInvalid, i.Nsec)
	}
	return i.Xattrs.check()
}

// normalise drops what the type has no use for.
func (i *Inode) normalise() {
	i.Mode &= TypeMask | permMask
	if i.Type() == TypeSymlink {
		i.Mode = TypeSymlink | 0o777 // as lstat shows every symbolic link
	} else {
		i.Target = ""
	}
	if i.Type() != TypeRegular {
		i.Size, i.Data = 0, Extent{}
		if i.Type() != TypeDir {
			i.Xattrs = i.Xattrs.withoutUser() // Linux keeps user.* only on files and directories
		}
	}
	if i.Type() != TypeChar && i.Type() != TypeBlock {
		i.Major, i.Minor = 0, 0
	}
}

// takeMetadata gives i the owner, permissions, time and attributes of m, as
// unpacking a hard link's entry does to the file it names.
func (i *Inode) takeMetadata(m *Inode) {
	if i.Type() != TypeSymlink {
		i.Mode = i.Type() | m.Mode&permMask
	}
	i.UID, i.GID, i.Mtime, i.Nsec = m.UID, m.GID, m.Mtime, m.Nsec
	xattrs := m.Xattrs
	if i.Type() != TypeRegular && i.Type() != TypeDir {
		xattrs = xattrs.withoutUser()
	}
	i.Xattrs = i.Xattrs.union(xattrs)
}

// encodedDevice is new_encode_dev of linux/kdev_t.h.
func encodedDevice(major, minor uint32) uint32 {
	return minor&0xff | major<<8 | minor&^0xff<<12
}

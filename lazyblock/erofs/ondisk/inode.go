package ondisk

import (
	"context"
	"encoding/binary"
	"fmt"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/lazyblock"
	"github.com/referee-cri/referee/lazyblock/erofs"
)

// Image is an EROFS image open for reading. It is not safe for concurrent use.
type Image struct {
	Super

	pages pages
}

// Open reads the image's superblock. Images with features that this package does
// not know are refused with reason.NotAttachable. r stays the caller's.
func Open(ctx context.Context, r lazyblock.RangeReader) (*Image, error) {
	super, err := ReadSuper(ctx, r)
	if err != nil {
		return nil, err
	}
	if unknown := super.Incompat &^ knownFeatures; unknown != 0 {
		return nil, reason.Errorf(reason.NotAttachable, "the EROFS image has features that are not read here: %#x", unknown)
	}
	return &Image{Super: *super, pages: pages{image: r}}, nil
}

// Data layouts: bits 1 to 3 of i_format.
const (
	layoutPlain      = 0
	layoutCompressed = 1 // with an index for each logical cluster
	layoutInline     = 2
	layoutCompact    = 3 // compressed, with compacted indexes
	layoutChunked    = 4
)

// File is an inode as the image has it.
type File struct {
	NID   uint64
	Inode erofs.Inode // without Data: see Extents
	Links uint32

	layout uint16
	union  uint32 // i_u
	size   int64  // i_size of every type
	behind int64  // where in the image the inode and its attributes end
}

// Compressed tells whether the file's bytes are compressed.
func (f *File) Compressed() bool { return f.layout == layoutCompressed || f.layout == layoutCompact }

// File reads the inode of that number, with its attributes and, of a symbolic
// link, its target.
func (i *Image) File(ctx context.Context, nid uint64) (*File, error) {
	f, err := i.file(ctx, nid)
	if err != nil {
		return nil, fmt.Errorf("read inode %d: %w", nid, err)
	}
	return f, nil
}

func (i *Image) file(ctx context.Context, nid uint64) (*File, error) {
	at := int64(i.MetaBlock) << i.BlockBits
	if nid > uint64(i.pages.image.Size()-at)/slotSize {
		return nil, corrupt("it would lie outside the image")
	}
	at += int64(nid) * slotSize
	head, err := i.pages.read(ctx, at, 2)
	if err != nil {
		return nil, err
	}
	format := binary.LittleEndian.Uint16(head)
	f := &File{NID: nid, layout: format >> 1 & 7}
	if format>>4 != 0 || f.layout > layoutChunked {
		return nil, reason.Errorf(reason.NotAttachable, "its format %#x is not read here", format)
	}
	xattrs := uint16(0)
	if format&1 == 0 {
		xattrs, err = i.compact(ctx, f, at)
	} else {
		xattrs, err = i.extended(ctx, f, at)
	}
	if err != nil {
		return nil, err
	}
	if f.size < 0 {
		return nil, corrupt("its size has more than 63 bits")
	}
	if f.Inode.Xattrs, err = i.xattrs(ctx, f, xattrs); err != nil {
		return nil, err
	}
	return f, i.special(ctx, f)
}

// compact reads the shorter inode. Its time is the image's.
func (i *Image) compact(ctx context.Context, f *File, at int64) (xattrs uint16, err error) {
	const size = 32
	b, err := i.pages.read(ctx, at, size)
	if err != nil {
		return 0, err
	}
	le := binary.LittleEndian
	f.Inode = erofs.Inode{
		Mode: uint32(le.Uint16(b[4:])), UID: uint32(le.Uint16(b[24:])), GID: uint32(le.Uint16(b[26:])),
		Mtime: i.BuildTime, Nsec: i.BuildNsec,
	}
	f.Links, f.size, f.union = uint32(le.Uint16(b[6:])), int64(le.Uint32(b[8:])), le.Uint32(b[16:])
	f.behind = at + size
	return le.Uint16(b[2:]), nil
}

func (i *Image) extended(ctx context.Context, f *File, at int64) (xattrs uint16, err error) {
	const size = 64
	b, err := i.pages.read(ctx, at, size)
	if err != nil {
		return 0, err
	}
	le := binary.LittleEndian
	f.Inode = erofs.Inode{
		Mode: uint32(le.Uint16(b[4:])), UID: le.Uint32(b[24:]), GID: le.Uint32(b[28:]),
		Mtime: int64(le.Uint64(b[32:])), Nsec: le.Uint32(b[40:]),
	}
	f.Links, f.size, f.union = le.Uint32(b[44:]), int64(le.Uint64(b[8:])), le.Uint32(b[16:])
	f.behind = at + size
	return le.Uint16(b[2:]), nil
}

// special fills in what only some types have.
func (i *Image) special(ctx context.Context, f *File) error {
	in := &f.Inode
	switch in.Type() {
	case erofs.TypeRegular:
		in.Size = f.size
	case erofs.TypeDir, erofs.TypeFIFO, erofs.TypeSocket:
	case erofs.TypeChar, erofs.TypeBlock: // new_encode_dev of linux/kdev_t.h
		in.Major, in.Minor = f.union>>8&0xfff, f.union&0xff|f.union>>12&0xfff00
	case erofs.TypeSymlink:
		if f.size > erofs.MaxTarget {
			return corrupt("link target of %d bytes, more than %d", f.size, erofs.MaxTarget)
		}
		target, err := i.content(ctx, f)
		if err != nil {
			return err
		}
		in.Target = string(target)
	default:
		return corrupt("file type %#o", in.Type())
	}
	return nil
}

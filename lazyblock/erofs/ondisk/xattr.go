package ondisk

import (
	"context"
	"encoding/binary"

	"github.com/referee-cri/referee/lazyblock/erofs"
)

const (
	xattrHeadSize  = 12
	xattrEntrySize = 4
	xattrAlign     = 4
)

// xattrPrefixes are the names' prefixes by their index (EROFS_XATTR_INDEX_*).
func xattrPrefix(index byte) (string, bool) {
	switch index {
	case 1:
		return "user.", true
	case 2:
		return "system.posix_acl_access", true
	case 3:
		return "system.posix_acl_default", true
	case 4:
		return "trusted.", true
	case 6:
		return "security.", true
	default:
		return "", false
	}
}

// xattrs reads the attributes of an inode that ends at f.behind, and moves that
// behind them. count is i_xattr_icount.
func (i *Image) xattrs(ctx context.Context, f *File, count uint16) (erofs.Xattrs, error) {
	if count == 0 {
		return nil, nil
	}
	size := int64(count-1)*xattrAlign + xattrHeadSize
	b, err := i.pages.read(ctx, f.behind, size)
	if err != nil {
		return nil, err
	}
	f.behind += size
	shared := int(b[4])
	b = b[xattrHeadSize:]
	if shared*4 > len(b) {
		return nil, corrupt("%d shared attributes in %d bytes", shared, len(b))
	}
	found := make(map[string]string)
	for n := range shared {
		if err := i.shared(ctx, found, binary.LittleEndian.Uint32(b[4*n:])); err != nil {
			return nil, err
		}
	}
	for b = b[4*shared:]; len(b) >= xattrEntrySize; {
		n, err := entry(found, b)
		if err != nil {
			return nil, err
		}
		if n == 0 { // padding
			break
		}
		b = b[min(n, len(b)):]
	}
	return erofs.NewXattrs(found), nil
}

// shared reads an attribute that several inodes have.
func (i *Image) shared(ctx context.Context, found map[string]string, id uint32) error {
	at := int64(i.XattrBlock)<<i.BlockBits + int64(id)*4
	head, err := i.pages.read(ctx, at, xattrEntrySize)
	if err != nil {
		return err
	}
	b, err := i.pages.read(ctx, at, xattrEntrySize+int64(head[0])+int64(binary.LittleEndian.Uint16(head[2:])))
	if err != nil {
		return err
	}
	_, err = entry(found, b)
	return err
}

// entry adds the attribute that b begins with and returns the bytes it takes, 0
// where there is none.
func entry(found map[string]string, b []byte) (int, error) {
	name, value := int(b[0]), int(binary.LittleEndian.Uint16(b[2:]))
	if name == 0 && b[1] == 0 && value == 0 {
		return 0, nil
	}
	prefix, ok := xattrPrefix(b[1])
	if !ok {
		return 0, corrupt("attribute of the namespace %d", b[1])
	}
	end := xattrEntrySize + name + value
	if end > len(b) {
		return 0, corrupt("attribute of %d bytes in %d", end, len(b))
	}
	found[prefix+string(b[xattrEntrySize:xattrEntrySize+name])] = string(b[xattrEntrySize+name : end])
	return (end + xattrAlign - 1) &^ (xattrAlign - 1), nil
}

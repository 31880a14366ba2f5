package erofs

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
)

// Bounds of extended attributes.
const (
	maxXattrName  = 255    // bytes, with the prefix: XATTR_NAME_MAX of linux/limits.h
	maxXattrValue = 0xFFFF // bytes: e_value_size has 16 bits (Linux allows one more)
	maxXattrList  = 65536  // bytes of all names of a file with their NULs: XATTR_LIST_MAX
	maxXattrBytes = (0xFFFF-1)*xattrAlign + xattrHeadSize
)

// Xattr is one extended attribute.
type Xattr struct {
	Name  string // with its prefix: "user.lab"
	Value string
}

// Xattrs is a file's extended attributes, sorted by name, each name once.
type Xattrs []Xattr

// Prefixes with an index of their own (EROFS_XATTR_INDEX_*). The access control
// lists' names are all prefix.
const (
	aclAccess  = "system.posix_acl_access"
	aclDefault = "system.posix_acl_default"
)

func xattrIndex(name string) (index byte, suffix string, ok bool) {
	switch {
	case name == aclAccess:
		return 2, "", true
	case name == aclDefault:
		return 3, "", true
	case strings.HasPrefix(name, "user."):
		return 1, name[len("user."):], true
	case strings.HasPrefix(name, "trusted."):
		return 4, name[len("trusted."):], true
	case strings.HasPrefix(name, "security."):
		return 6, name[len("security."):], true
	default:
		return 0, "", false
	}
}

// SupportedXattr reports whether Linux and EROFS know name's namespace.
func SupportedXattr(name string) bool {
	_, _, ok := xattrIndex(name)
	return ok
}

// NewXattrs sorts attributes by name.
func NewXattrs(attributes map[string]string) Xattrs {
	if len(attributes) == 0 {
		return nil
	}
	sorted := make(Xattrs, 0, len(attributes))
	for name, value := range attributes {
		sorted = append(sorted, Xattr{name, value})
	}
	slices.SortFunc(sorted, func(a, b Xattr) int { return strings.Compare(a.Name, b.Name) })
	return sorted
}

func (x Xattrs) check() error {
	names := 0
	for i, a := range x {
		_, suffix, ok := xattrIndex(a.Name)
		switch {
		case !ok:
			return fmt.Errorf("%w: attribute %q: unknown namespace", ErrInvalid, a.Name)
		case suffix == "" && a.Name != aclAccess && a.Name != aclDefault,
			len(a.Name) > maxXattrName, strings.IndexByte(a.Name, 0) >= 0:
			return fmt.Errorf("%w: attribute name %q", ErrInvalid, a.Name)
		case len(a.Value) > maxXattrValue:
			return fmt.Errorf("%w: attribute %s has %d bytes, more than %d", ErrInvalid, a.Name, len(a.Value), maxXattrValue)
		case i > 0 && x[i-1].Name >= a.Name:
			return fmt.Errorf("%w: attributes not sorted at %q", ErrInvalid, a.Name)
		}
		if names += len(a.Name) + 1; names > maxXattrList {
			return fmt.Errorf("%w: attribute names of more than %d bytes", ErrInvalid, maxXattrList)
		}
	}
	if size := x.size(); size > maxXattrBytes {
		return fmt.Errorf("%w: attributes of %d bytes, more than %d", ErrInvalid, size, maxXattrBytes)
	}
	return nil
}

// union returns x with the attributes of over added; those of over win.
func (x Xattrs) union(over Xattrs) Xattrs {
	if len(x) == 0 {
		return over
	}
	if len(over) == 0 {
		return x
	}
	all := make(map[string]string, len(x)+len(over))
	for _, list := range []Xattrs{x, over} {
		for _, a := range list {
			all[a.Name] = a.Value
		}
	}
	return NewXattrs(all)
}

func (x Xattrs) withoutUser() Xattrs {
	var rest Xattrs
	for _, a := range x {
		if !strings.HasPrefix(a.Name, "user.") {
			rest = append(rest, a)
		}
	}
	return rest
}

// size is the bytes that x takes behind an inode: 0 without attributes.
func (x Xattrs) size() int {
	if len(x) == 0 {
		return 0
	}
	size := xattrHeadSize
	for _, a := range x {
		_, suffix, _ := xattrIndex(a.Name)
		size += align(xattrEntrySize+len(suffix)+len(a.Value), xattrAlign)
	}
	return size
}

// count is i_xattr_icount.
func (x Xattrs) count() uint16 {
	if len(x) == 0 {
		return 0
	}
	return uint16((x.size()-xattrHeadSize)/xattrAlign + 1)
}

// appendTo appends x as it is written behind an inode.
func (x Xattrs) appendTo(b []byte) []byte {
	if len(x) == 0 {
		return b
	}
	b = append(b, make([]byte, xattrHeadSize)...) // no shared attributes, no name filter
	for _, a := range x {
		index, suffix, _ := xattrIndex(a.Name)
		start := len(b)
		b = append(b, byte(len(suffix)), index)
		b = binary.LittleEndian.AppendUint16(b, uint16(len(a.Value)))
		b = append(b, suffix...)
		b = append(b, a.Value...)
		b = append(b, make([]byte, align(len(b)-start, xattrAlign)-(len(b)-start))...)
	}
	return b
}

// align rounds n up to a multiple of unit, a power of two.
func align[T int | int64 | uint64](n, unit T) T { return (n + unit - 1) &^ (unit - 1) }

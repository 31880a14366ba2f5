package treecmp

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

type inode struct{ dev, ino uint64 }

// List walks the tree below root without following symbolic links and reads
// every file. It wants root's privileges for foreign files and trusted
// xattrs. The time of root itself is left out: no image defines it.
func List(root string) (Tree, error) {
	tree := Tree{}
	groups := map[inode][]string{}
	err := filepath.WalkDir(root, func(full string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		path := "/" + strings.TrimPrefix(strings.TrimPrefix(full, root), "/")
		var st unix.Stat_t
		err = unix.Lstat(full, &st)
		if errors.Is(err, unix.ENOENT) {
			// overlayfs lists a whiteout that hides nothing, and then denies it.
			return nil
		}
		if err != nil {
			return fmt.Errorf("stat %s: %w", full, err)
		}
		entry, err := lstat(full, path, &st)
		if err != nil {
			return err
		}
		tree[path] = entry
		if entry.Type != Dir {
			id := inode{uint64(st.Dev), st.Ino}
			groups[id] = append(groups[id], path)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", root, err)
	}
	names := make([][]string, 0, len(groups))
	for _, group := range groups {
		names = append(names, group)
	}
	tree.link(names, false)
	return tree, nil
}

func lstat(full, path string, st *unix.Stat_t) (Entry, error) {
	e := Entry{Path: path, Mode: st.Mode & 0o7777, UID: st.Uid, GID: st.Gid}
	if path != "/" {
		e.Mtime = time.Unix(st.Mtim.Unix()).UTC()
	}
	var err error
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		e.Type = Dir
	case unix.S_IFREG:
		e.Type, e.Size = File, st.Size
		e.SHA256, err = hashFile(full)
	case unix.S_IFLNK:
		e.Type, e.Size = Symlink, st.Size
		e.Target, err = os.Readlink(full)
	case unix.S_IFIFO:
		e.Type = Fifo
	case unix.S_IFCHR:
		e.Type = Char
	case unix.S_IFBLK:
		e.Type = Block
	case unix.S_IFSOCK:
		e.Type = Socket
	}
	if err != nil {
		return Entry{}, err
	}
	if e.Type == Char || e.Type == Block {
		e.RdevMajor, e.RdevMinor = unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev))
	}
	if e.Type != Dir {
		e.Nlink = int(st.Nlink)
	}
	e.Xattrs, err = xattrs(full)
	return e, err
}

func hashFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("read %s: %w", path, err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// maxXattr is XATTR_SIZE_MAX and XATTR_LIST_MAX of linux/limits.h.
const maxXattr = 65536

func xattrs(path string) (map[string]string, error) {
	buf := make([]byte, maxXattr)
	n, err := unix.Llistxattr(path, buf)
	if err != nil {
		return nil, fmt.Errorf("list xattrs of %s: %w", path, err)
	}
	var found map[string]string
	for name := range strings.SplitSeq(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00") {
		if name == "" {
			continue
		}
		value := make([]byte, maxXattr)
		n, err := unix.Lgetxattr(path, name, value)
		if err != nil {
			return nil, fmt.Errorf("get xattr %s of %s: %w", name, path, err)
		}
		if found == nil {
			found = map[string]string{}
		}
		found[name] = string(value[:n])
	}
	return found, nil
}

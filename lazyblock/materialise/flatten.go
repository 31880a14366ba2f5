package materialise

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// overlayPrefix begins the names of the attributes that overlayfs keeps to itself
// (Linux Documentation/filesystems/overlayfs.rst).
const overlayPrefix = "trusted.overlay."

// flatten lays the layers' directories over each other, bottom first, as
// overlayfs would show them. Files are moved, not copied. It consumes them.
func (w *work) flatten(ctx context.Context) error {
	if err := os.Mkdir(w.tree, 0o700); err != nil {
		return err
	}
	for i := range w.layers {
		if err := merge(ctx, w.upper(i), w.tree); err != nil {
			return fmt.Errorf("lay layer %s over those below: %w", w.layers[i].Digest, err)
		}
	}
	return nil
}

// merge moves what is in the directory upper over what is in the directory lower,
// which becomes what overlayfs shows: upper's metadata, both one's entries.
// Nobody else may change either.
func merge(ctx context.Context, upper, lower string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	var shown unix.Stat_t // before the moves change its time
	if err := unix.Lstat(upper, &shown); err != nil {
		return &os.PathError{Op: "lstat", Path: upper, Err: err}
	}
	entries, err := os.ReadDir(upper)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		from, to := filepath.Join(upper, entry.Name()), filepath.Join(lower, entry.Name())
		if entry.IsDir() {
			err = mergeDir(ctx, from, to)
		} else {
			err = replace(entry, from, to)
		}
		if err != nil {
			return err
		}
	}
	return copyMetadata(upper, lower, shown)
}

// mergeDir merges the directory from with what is at to: with a directory unless
// from is opaque, else with nothing.
func mergeDir(ctx context.Context, from, to string) error {
	opaque, err := isOpaque(from)
	if err != nil {
		return err
	}
	below, err := os.Lstat(to)
	switch {
	case err == nil && below.IsDir() && !opaque:
		return merge(ctx, from, to)
	case err == nil:
		err = os.RemoveAll(to)
	case errors.Is(err, os.ErrNotExist):
		err = nil
	}
	if err != nil {
		return err
	}
	if err := os.Mkdir(to, 0o700); err != nil {
		return err
	}
	return merge(ctx, from, to)
}

// replace puts something that is no directory at to, or nothing if it is a whiteout.
func replace(entry os.DirEntry, from, to string) error {
	whiteout := false
	if entry.Type() == os.ModeDevice|os.ModeCharDevice {
		info, err := entry.Info()
		if err != nil {
			return err
		}
		stat, ok := info.Sys().(*syscall.Stat_t)
		whiteout = ok && stat.Rdev == 0
	}
	below, err := os.Lstat(to)
	if err == nil && (whiteout || below.IsDir()) {
		err = os.RemoveAll(to)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) || whiteout {
		return ignoreNotExist(err)
	}
	return os.Rename(from, to)
}

func ignoreNotExist(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

func isOpaque(dir string) (bool, error) {
	var value [1]byte
	n, err := unix.Lgetxattr(dir, overlayPrefix+"opaque", value[:])
	switch {
	case err == nil:
		return n == 1 && value[0] == 'y', nil
	case errors.Is(err, unix.ENODATA), errors.Is(err, unix.ENOTSUP):
		return false, nil
	default:
		return false, &os.PathError{Op: "getxattr", Path: dir, Err: err}
	}
}

// copyMetadata gives the directory to the metadata of the directory from, whose
// owner, mode and times are stat's.
func copyMetadata(from, to string, stat unix.Stat_t) error {
	if err := os.Lchown(to, int(stat.Uid), int(stat.Gid)); err != nil {
		return err
	}
	if err := copyXattrs(from, to); err != nil {
		return err
	}
	if err := unix.Chmod(to, stat.Mode&0o7777); err != nil { // after the attributes: an ACL changes it
		return &os.PathError{Op: "chmod", Path: to, Err: err}
	}
	times := []unix.Timespec{stat.Atim, stat.Mtim}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, to, times, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &os.PathError{Op: "utimes", Path: to, Err: err}
	}
	return nil
}

// copyXattrs makes to's attributes those of from, less overlayfs's own.
func copyXattrs(from, to string) error {
	want, err := listXattrs(from)
	if err != nil {
		return err
	}
	have, err := listXattrs(to)
	if err != nil {
		return err
	}
	for _, name := range have {
		if !slices.Contains(want, name) {
			if err := unix.Lremovexattr(to, name); err != nil {
				return &os.PathError{Op: "removexattr " + name, Path: to, Err: err}
			}
		}
	}
	for _, name := range want {
		value, err := readXattr(func(buf []byte) (int, error) { return unix.Lgetxattr(from, name, buf) })
		if err != nil {
			return &os.PathError{Op: "getxattr " + name, Path: from, Err: err}
		}
		if err := unix.Lsetxattr(to, name, value, 0); err != nil {
			return &os.PathError{Op: "setxattr " + name, Path: to, Err: err}
		}
	}
	return nil
}

func listXattrs(path string) ([]string, error) {
	list, err := readXattr(func(buf []byte) (int, error) { return unix.Llistxattr(path, buf) })
	if errors.Is(err, unix.ENOTSUP) {
		return nil, nil
	}
	if err != nil {
		return nil, &os.PathError{Op: "listxattr", Path: path, Err: err}
	}
	var names []string
	for name := range strings.SplitSeq(strings.TrimSuffix(string(list), "\x00"), "\x00") {
		if name != "" && !strings.HasPrefix(name, overlayPrefix) {
			names = append(names, name)
		}
	}
	return names, nil
}

// readXattr calls read as xattr(7) wants it: for the size, then for the bytes.
// Nobody changes them between.
func readXattr(read func([]byte) (int, error)) ([]byte, error) {
	n, err := read(nil)
	if err != nil || n == 0 {
		return nil, err
	}
	buf := make([]byte, n)
	n, err = read(buf)
	return buf[:max(n, 0)], err
}

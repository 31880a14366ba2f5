package trace

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path"

	"golang.org/x/sys/unix"
)

// maxNamed bounds the files that a publisher's list may have read ahead.
const maxNamed = 8192

// pageCache reads files ahead of whoever will read them.
type pageCache struct {
	root  *os.Root // of a mounted volume: links do not lead out of it
	left  int64    // bytes that may still be read
	files int      // that were read
	bytes int64
}

// readPaths has the kernel read the files at these paths below root, and all below
// those that are directories, until most bytes are read or ctx ends. What is not
// there is passed by.
func readPaths(ctx context.Context, root string, paths []string, most int64) (files int, bytes int64, err error) {
	opened, err := os.OpenRoot(root)
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, opened.Close()) }()
	c := &pageCache{root: opened, left: most}
	for _, name := range paths {
		err := fs.WalkDir(opened.FS(), path.Clean(name), func(name string, entry fs.DirEntry, err error) error {
			switch {
			case ctx.Err() != nil:
				return ctx.Err()
			case err != nil || !entry.Type().IsRegular():
				return nil //nolint:nilerr // the list may be of another version of the image
			case c.files >= maxNamed || c.left <= 0:
				return fs.SkipAll
			}
			c.read(name)
			return nil
		})
		if err != nil {
			return c.files, c.bytes, err
		}
	}
	return c.files, c.bytes, nil
}

// read reads one file ahead. It returns when the kernel has asked for all of it,
// which may be when all of it is there.
func (c *pageCache) read(name string) {
	file, err := c.root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return
	}
	defer func() { _ = file.Close() }() // read only
	info, err := file.Stat()
	if err != nil || !info.Mode().IsRegular() || info.Size() == 0 {
		return
	}
	n := min(info.Size(), c.left)
	if err := unix.Fadvise(int(file.Fd()), 0, n, unix.FADV_WILLNEED); err == nil {
		c.files++
		c.left -= n
		c.bytes += n
	}
}

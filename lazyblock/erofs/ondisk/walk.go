package ondisk

import (
	"context"
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/referee-cri/referee/lazyblock/erofs"
)

// Bounds of what one image may make us do.
const (
	maxDirectory = 64 << 20 // bytes of one directory: a million names
	maxEntries   = 2 << 20  // of all directories, as erofs.Limits has it
)

const direntSize = 12

// Walk calls visit for every name in the image: the root, as "/", first, a
// directory before what it holds, names in the order of the directory. The files
// that several names have are visited once for each, with the same NID.
func (i *Image) Walk(ctx context.Context, visit func(name string, f *File) error) error {
	w := walk{image: i, visit: visit, entered: make(map[uint64]bool)}
	root, err := i.File(ctx, i.RootNID)
	if err != nil {
		return fmt.Errorf("read root: %w", err)
	}
	if !root.Inode.IsDir() {
		return corrupt("the root is no directory but %#o", root.Inode.Type())
	}
	if err := visit("/", root); err != nil {
		return err
	}
	return w.enter(ctx, "/", root)
}

// Below is Walk from a directory on, which is not visited itself.
func (i *Image) Below(ctx context.Context, dir *File, visit func(name string, f *File) error) error {
	w := walk{image: i, visit: visit, entered: make(map[uint64]bool)}
	return w.enter(ctx, "/", dir)
}

type walk struct {
	image   *Image
	visit   func(string, *File) error
	entered map[uint64]bool // directories, by inode number
	entries int
}

// enter visits what dir holds. It recurses no deeper than a path has parts,
// erofs.MaxPath/2.
func (w *walk) enter(ctx context.Context, path string, dir *File) error {
	if w.entered[dir.NID] {
		return corrupt("directory %d has two parents", dir.NID)
	}
	w.entered[dir.NID] = true
	entries, err := w.image.entries(ctx, dir)
	if err != nil {
		return fmt.Errorf("read directory %.256q: %w", path, err)
	}
	if w.entries += len(entries); w.entries > maxEntries {
		return corrupt("more than %d names", maxEntries)
	}
	for _, e := range entries {
		if ctx.Err() != nil { // what is read again comes from memory
			return ctx.Err()
		}
		name := path + e.name
		if len(name)-1 > erofs.MaxPath {
			return corrupt("path of %d bytes, more than %d", len(name)-1, erofs.MaxPath)
		}
		f, err := w.image.File(ctx, e.nid)
		if err != nil {
			return fmt.Errorf("%.256q: %w", name, err)
		}
		if err := w.visit(name, f); err != nil {
			return err
		}
		if f.Inode.IsDir() {
			if err := w.enter(ctx, name+"/", f); err != nil {
				return err
			}
		}
	}
	return nil
}

// dirent is a name in a directory.
type dirent struct {
	name string
	nid  uint64
}

// entries reads a directory: blocks, each an array of entries and then their
// names. "." and ".." are left out.
func (i *Image) entries(ctx context.Context, dir *File) ([]dirent, error) {
	if dir.size > maxDirectory {
		return nil, corrupt("a directory of %d bytes, more than %d", dir.size, maxDirectory)
	}
	content, err := i.content(ctx, dir)
	if err != nil {
		return nil, err
	}
	var entries []dirent
	for len(content) > 0 {
		block := content[:min(len(content), int(i.BlockSize()))]
		content = content[len(block):]
		if entries, err = appendBlock(entries, block); err != nil {
			return nil, err
		}
	}
	return entries, nil
}

func appendBlock(entries []dirent, block []byte) ([]dirent, error) {
	if len(block) < direntSize {
		return nil, corrupt("directory block of %d bytes", len(block))
	}
	names := int(binary.LittleEndian.Uint16(block[8:]))
	if names < direntSize || names%direntSize != 0 || names > len(block) {
		return nil, corrupt("first name at %d of a directory block of %d bytes", names, len(block))
	}
	for at := 0; at < names; at += direntSize {
		from, to := int(binary.LittleEndian.Uint16(block[at+8:])), len(block)
		last := at+direntSize == names
		if !last {
			to = int(binary.LittleEndian.Uint16(block[at+direntSize+8:]))
		}
		if from < names || from > to || to > len(block) {
			return nil, corrupt("name from %d to %d of a directory block of %d bytes", from, to, len(block))
		}
		name := string(block[from:to])
		if last { // zeros may follow
			name, _, _ = strings.Cut(name, "\x00")
		}
		if name == "." || name == ".." {
			continue
		}
		if name == "" || len(name) > erofs.MaxName || strings.ContainsAny(name, "/\x00") {
			return nil, corrupt("name %.64q in a directory", name)
		}
		entries = append(entries, dirent{name, binary.LittleEndian.Uint64(block[at:])})
	}
	return entries, nil
}

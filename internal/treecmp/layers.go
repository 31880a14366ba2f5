package treecmp

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
)

const (
	whiteout = ".wh."
	opaque   = ".wh..wh..opq"
	schily   = "SCHILY.xattr."
)

// FromLayers merges uncompressed layer tars, bottom first, as the OCI image
// specification says: whiteouts of a layer act on the layers below it only.
// Directories that no layer names are 0755 root without a time.
func FromLayers(layers ...io.Reader) (Tree, error) {
	m := merge{}
	for i, layer := range layers {
		if err := m.apply(layer); err != nil {
			return nil, fmt.Errorf("merge layer %d: %w", i, err)
		}
	}
	m.parent("/.")
	tree := Tree{}
	groups := map[*Entry][]string{}
	for name, e := range m {
		entry := *e
		entry.Path = name
		tree[name] = entry
		if e.Type != Dir {
			groups[e] = append(groups[e], name)
		}
	}
	names := make([][]string, 0, len(groups))
	for _, group := range groups {
		names = append(names, group)
	}
	tree.link(names, true)
	return tree, nil
}

// merge is a tree under construction; names of one inode share their Entry.
type merge map[string]*Entry

func (m merge) apply(layer io.Reader) error {
	type named struct {
		name  string
		entry *Entry
		link  string
	}
	var entries []named
	for tr := tar.NewReader(layer); ; {
		hdr, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		name := path.Clean("/" + hdr.Name)
		dir, base := path.Split(name)
		switch {
		case base == opaque:
			m.removeBelow(path.Clean(dir))
		case strings.HasPrefix(base, whiteout):
			m.remove(dir + base[len(whiteout):])
		case hdr.Typeflag == tar.TypeLink:
			entries = append(entries, named{name: name, link: path.Clean("/" + hdr.Linkname)})
		default:
			e, err := fromHeader(hdr, tr)
			if err != nil {
				return fmt.Errorf("read %q: %w", hdr.Name, err)
			}
			entries = append(entries, named{name: name, entry: e})
		}
	}
	for _, n := range entries {
		if n.link != "" {
			if n.entry = m[n.link]; n.entry == nil {
				return fmt.Errorf("link %q: no %q", n.name, n.link)
			}
		}
		m.put(n.name, n.entry)
	}
	return nil
}

func (m merge) put(name string, e *Entry) {
	if old := m[name]; old == nil || old.Type != Dir || e.Type != Dir {
		m.remove(name)
	}
	m.parent(name)
	m[name] = e
}

// parent makes the directories above name that nobody named.
func (m merge) parent(name string) {
	for dir := path.Dir(name); ; dir = path.Dir(dir) {
		if m[dir] == nil {
			m[dir] = &Entry{Type: Dir, Mode: 0o755}
		}
		if dir == "/" {
			return
		}
	}
}

func (m merge) remove(name string) {
	delete(m, name)
	m.removeBelow(name)
}

func (m merge) removeBelow(dir string) {
	prefix := strings.TrimSuffix(dir, "/") + "/"
	for name := range m {
		if strings.HasPrefix(name, prefix) && name != dir {
			delete(m, name)
		}
	}
}

func fromHeader(hdr *tar.Header, content io.Reader) (*Entry, error) {
	e := &Entry{
		Mode: uint32(hdr.Mode) & 0o7777, UID: uint32(hdr.Uid), GID: uint32(hdr.Gid), Mtime: hdr.ModTime.UTC(),
	}
	switch hdr.Typeflag {
	case tar.TypeReg:
		h := sha256.New()
		n, err := io.Copy(h, content)
		if err != nil {
			return nil, err
		}
		e.Type, e.Size, e.SHA256 = File, n, hex.EncodeToString(h.Sum(nil))
	case tar.TypeDir:
		e.Type = Dir
	case tar.TypeSymlink:
		// Linux has no modes of symbolic links, whatever the tar says.
		e.Type, e.Mode, e.Target, e.Size = Symlink, 0o777, hdr.Linkname, int64(len(hdr.Linkname))
	case tar.TypeFifo:
		e.Type = Fifo
	case tar.TypeChar, tar.TypeBlock:
		e.Type = Char
		if hdr.Typeflag == tar.TypeBlock {
			e.Type = Block
		}
		e.RdevMajor, e.RdevMinor = uint32(hdr.Devmajor), uint32(hdr.Devminor)
	default:
		return nil, fmt.Errorf("unknown type %q", hdr.Typeflag)
	}
	for key, value := range hdr.PAXRecords {
		if name, ok := strings.CutPrefix(key, schily); ok {
			if e.Xattrs == nil {
				e.Xattrs = map[string]string{}
			}
			e.Xattrs[name] = value
		}
	}
	return e, nil
}

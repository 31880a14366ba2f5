package erofs

import (
	"fmt"
	"strings"
)

// Marks of inodes that belong to a Layer.
const (
	flagWhiteout = 1 << iota // hides the lower layers' file of this name; is no file itself
	flagOpaque               // a directory that hides the lower layers' content
)

// Names with a meaning in image layers (OCI image-spec, layer.md).
const (
	whiteoutPrefix = ".wh."
	whiteoutOpaque = ".wh..wh..opq"
)

// Layer is what one image layer changes. It is built entry by entry in the
// order of the layer's tar and then applied to its tree as a whole, as
// containerd unpacks into an overlayfs upper directory that the kernel merges:
//
//   - the last entry of a path wins; a directory named again keeps its content;
//   - symbolic links in an entry's parents are followed within the layer only,
//     never into lower layers, and never out of the root;
//   - a parent that the layer does not name takes the lower directory's
//     metadata, else it is 0755, root's, of time 0;
//   - whiteouts act on lower layers only, wherever in the layer they stand.
//
// In four points it follows the OCI specification or other unpackers where
// containerd 2.4 refuses the layer or lets lower content shine through: a hard
// link may name a file of a lower layer; a directory beside its own whiteout is
// opaque; a whiteout of the root's content works; an entry for the root itself
// sets the root's metadata.
type Layer struct {
	lower *Tree
	root  *Inode
	used  usage

	standIns map[*Inode]*Inode // by a lower inode: the inode that stands for it in this layer
}

// NewLayer starts a layer above what t holds now. Until the layer is applied or
// dropped, t must not change.
func (t *Tree) NewLayer() *Layer {
	root := newDir()
	root.copyMetadata(t.root)
	return &Layer{lower: t, root: root, used: t.used, standIns: map[*Inode]*Inode{}}
}

// Add puts a file of any type at name, or understands name as a whiteout.
// Names are taken as absolute; parents are made where they are missing.
// Attributes in namespaces that EROFS has not, or that a layer must not set
// (trusted), are for the caller to drop.
func (l *Layer) Add(name string, in Inode) error {
	if err := l.add(name, in); err != nil {
		return fmt.Errorf("add %.256q: %w", name, err)
	}
	return nil
}

func (l *Layer) add(name string, in Inode) error {
	in.normalise()
	if err := in.check(); err != nil {
		return err
	}
	if err := l.used.charge(l.lower.limits, name, &in); err != nil {
		return err
	}
	dir, base, err := l.parent(name)
	switch {
	case err != nil:
		return err
	case base == "":
		if in.IsDir() {
			l.root.copyMetadata(&in)
		}
		return nil
	case strings.HasPrefix(base, whiteoutPrefix):
		return whiteout(dir, base)
	case in.Type() == TypeChar && in.Major == 0 && in.Minor == 0:
		hide(dir, base) // this is how overlayfs itself spells a whiteout
		return nil
	}
	old := dir.children[base]
	if in.IsDir() {
		if old != nil && old.IsDir() {
			in.Xattrs = old.Xattrs.union(in.Xattrs)
			old.copyMetadata(&in)
			return nil
		}
		in.children = map[string]*Inode{}
		if old != nil && old.flags&flagWhiteout != 0 {
			in.flags = flagOpaque
		}
	}
	dir.children[base] = &in
	return nil
}

// Link makes name another name of the file at target, which this or a lower
// layer has, and gives that file the metadata of meta, as unpacking does.
func (l *Layer) Link(name, target string, meta Inode) error {
	if err := l.link(name, target, meta); err != nil {
		return fmt.Errorf("link %.256q to %.256q: %w", name, target, err)
	}
	return nil
}

func (l *Layer) link(name, target string, meta Inode) error {
	if err := meta.Xattrs.check(); err != nil {
		return err
	}
	if err := l.used.charge(l.lower.limits, name, &meta); err != nil {
		return err
	}
	dir, base, err := l.parent(name)
	switch {
	case err != nil:
		return err
	case base == "":
		return fmt.Errorf("%w: the root cannot be a hard link", ErrInvalid)
	case strings.HasPrefix(base, whiteoutPrefix):
		return whiteout(dir, base)
	}
	file, err := l.linkTarget(split(target))
	if err != nil {
		return err
	}
	file.takeMetadata(&meta)
	dir.children[base] = file
	return nil
}

// linkTarget finds the file that a hard link names, in this layer first.
func (l *Layer) linkTarget(parts []string) (*Inode, error) {
	file, err := lookupFile(l.root, parts)
	if err != nil {
		return nil, err
	}
	if file == nil {
		lower, err := lookupFile(l.lower.root, parts)
		if err != nil {
			return nil, err
		}
		if lower == nil {
			return nil, fmt.Errorf("%w: no such file in this or a lower layer", ErrInvalid)
		}
		if file = l.standIns[lower]; file == nil {
			clone := *lower
			file = &clone
			l.standIns[lower] = file
		}
	}
	if file.IsDir() {
		return nil, fmt.Errorf("%w: a directory cannot have hard links", ErrInvalid)
	}
	return file, nil
}

// lookupFile follows symbolic links in all parts but the last.
func lookupFile(root *Inode, parts []string) (*Inode, error) {
	if len(parts) == 0 {
		return root, nil
	}
	last := len(parts) - 1
	parents, err := resolve(root, parts[:last])
	if err != nil {
		return nil, err
	}
	at := root
	for _, part := range append(parents, parts[last]) {
		if at = at.children[part]; at == nil {
			return nil, nil
		}
	}
	if at.flags&flagWhiteout != 0 {
		return nil, nil
	}
	return at, nil
}

// parent returns the layer's directory for name, made if need be, and the last
// part of name: "" for the root.
func (l *Layer) parent(name string) (dir *Inode, base string, err error) {
	parts := split(name)
	if len(parts) == 0 {
		return nil, "", nil
	}
	last := len(parts) - 1
	base = strings.Clone(parts[last]) // do not keep the whole path alive
	if len(base) > MaxName && !strings.HasPrefix(base, whiteoutPrefix) || len(base) > MaxName+len(whiteoutPrefix) {
		return nil, "", fmt.Errorf("%w: name of %d bytes, more than %d", ErrInvalid, len(base), MaxName)
	}
	if strings.IndexByte(name, 0) >= 0 {
		return nil, "", fmt.Errorf("%w: NUL in a name", ErrInvalid)
	}
	parents, err := resolve(l.root, parts[:last])
	if err != nil {
		return nil, "", err
	}
	dir = l.root
	size := len(base)
	for i, part := range parents {
		size += len(part) + 1
		if dir, err = l.enter(dir, parents[:i+1]); err != nil {
			return nil, "", err
		}
	}
	if size > MaxPath {
		return nil, "", fmt.Errorf("%w: path of %d bytes, more than %d", ErrInvalid, size, MaxPath)
	}
	return dir, base, nil
}

// enter returns the child directory of dir at the resolved path parts, and
// makes it if the layer has not named it yet.
func (l *Layer) enter(dir *Inode, parts []string) (*Inode, error) {
	name := parts[len(parts)-1]
	old := dir.children[name]
	if old != nil && old.flags&flagWhiteout == 0 {
		if !old.IsDir() {
			return nil, fmt.Errorf("%w: %.256q is not a directory in this layer", ErrInvalid, name)
		}
		return old, nil
	}
	if len(name) > MaxName {
		return nil, fmt.Errorf("%w: name of %d bytes, more than %d", ErrInvalid, len(name), MaxName)
	}
	made := newDir()
	if old != nil {
		made.flags = flagOpaque
	} else if below := l.lowerDir(parts); below != nil {
		made.copyMetadata(below)
	} else if dir.Mode&setGID != 0 {
		made.GID = dir.GID // as mkdir(2) does
	}
	if err := l.used.charge(l.lower.limits, name, made); err != nil {
		return nil, err
	}
	dir.children[strings.Clone(name)] = made
	return made, nil
}

// lowerDir returns the directory that parts lead to in the lower layers, links
// followed, or nil.
func (l *Layer) lowerDir(parts []string) *Inode {
	resolved, err := resolve(l.lower.root, parts)
	if err != nil {
		return nil
	}
	at := l.lower.root
	for _, part := range resolved {
		if at = at.children[part]; at == nil {
			return nil
		}
	}
	if !at.IsDir() {
		return nil
	}
	return at
}

// whiteout applies a whiteout entry's name to the layer's directory dir.
func whiteout(dir *Inode, base string) error {
	if base == whiteoutOpaque {
		dir.flags |= flagOpaque
		return nil
	}
	name := base[len(whiteoutPrefix):]
	if name == "" || name == "." || name == ".." {
		return fmt.Errorf("%w: whiteout without a name", ErrInvalid)
	}
	switch old := dir.children[name]; {
	case old == nil:
		hide(dir, name)
	case old.IsDir():
		old.flags |= flagOpaque
	}
	return nil
}

func hide(dir *Inode, name string) {
	dir.children[name] = &Inode{Mode: TypeChar, flags: flagWhiteout}
}

// copyMetadata gives the directory i the owner, permissions, time and
// attributes of from.
func (i *Inode) copyMetadata(from *Inode) {
	i.Mode = TypeDir | from.Mode&permMask
	i.UID, i.GID, i.Mtime, i.Nsec, i.Xattrs = from.UID, from.GID, from.Mtime, from.Nsec, from.Xattrs
}

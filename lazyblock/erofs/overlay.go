package erofs

import "fmt"

// xattrOpaque marks a directory that hides those of lower layers
// (Documentation/filesystems/overlayfs.rst, "whiteouts and opaque directories").
const xattrOpaque = "trusted.overlay.opaque"

// Overlay returns what the layer holds as a file system of its own, for overlayfs to
// put above those of the layers below: whiteouts are devices 0:0, opaque directories
// carry an attribute. It must be called before the layer is applied, and shares files
// with the layer: it is to be laid out before the layer's tree is.
//
// A layer that gives a further name to a file of a lower layer cannot stand alone.
func (l *Layer) Overlay() (*Tree, error) {
	if len(l.standIns) > 0 {
		return nil, fmt.Errorf("%w: a hard link to a file of a lower layer, which no file system of this layer alone can hold", ErrInvalid)
	}
	return &Tree{root: overlayDir(l.root), limits: l.lower.limits, used: l.used}, nil
}

// overlayDir copies a directory and those in it. It recurses no deeper than a path
// has parts, MaxPath/2.
func overlayDir(dir *Inode) *Inode {
	made := *dir
	made.flags, made.children = 0, make(map[string]*Inode, len(dir.children))
	if dir.flags&flagOpaque != 0 {
		made.Xattrs = made.Xattrs.union(Xattrs{{xattrOpaque, "y"}})
	}
	for name, child := range dir.children {
		if child.IsDir() {
			child = overlayDir(child)
		}
		made.children[name] = child
	}
	return &made
}

package erofs

import "fmt"

// Apply merges a layer that was started on t into t. The layer must not be used
// afterwards.
func (t *Tree) Apply(l *Layer) error {
	if l.lower != t {
		return fmt.Errorf("apply layer: it belongs to another tree")
	}
	t.used = l.used
	originals := make(map[*Inode]*Inode, len(l.standIns))
	for lower, standIn := range l.standIns {
		lower.Mode, lower.UID, lower.GID = standIn.Mode, standIn.UID, standIn.GID
		lower.Mtime, lower.Nsec, lower.Xattrs = standIn.Mtime, standIn.Nsec, standIn.Xattrs
		originals[standIn] = lower
	}
	merge(t.root, l.root, originals)
	return nil
}

// merge puts the directory upper over the directory lower. It recurses no
// deeper than a path has parts, MaxPath/2.
func merge(lower, upper *Inode, originals map[*Inode]*Inode) {
	lower.copyMetadata(upper)
	if upper.flags&flagOpaque != 0 {
		clear(lower.children)
	}
	for name, file := range upper.children {
		switch {
		case file.flags&flagWhiteout != 0:
			delete(lower.children, name)
		case file.IsDir():
			below := lower.children[name]
			if below == nil || !below.IsDir() {
				below = newDir()
				lower.children[name] = below
			}
			merge(below, file, originals)
		default:
			if original := originals[file]; original != nil {
				file = original
			}
			lower.children[name] = file
		}
	}
}

package erofs

import "iter"

// Files are the tree's regular files, each once however many names it has, in no
// order that is promised. Their Data may be changed, nothing else.
func (t *Tree) Files() iter.Seq[*Inode] {
	return func(yield func(*Inode) bool) {
		t.layouts++
		mark := t.layouts
		dirs := []*Inode{t.root}
		for len(dirs) > 0 {
			dir := dirs[len(dirs)-1]
			dirs = dirs[:len(dirs)-1]
			for _, child := range dir.children {
				switch {
				case child.IsDir():
					dirs = append(dirs, child)
				case child.Type() == TypeRegular && child.place.layout != mark:
					child.place = placement{layout: mark}
					if !yield(child) {
						return
					}
				}
			}
		}
	}
}

// Package treecmp compares root file systems in tests: a mounted tree, a
// recorded listing and a stack of layer tars all become a Tree, and two Trees
// are compared field by field.
//
//	want := treecmp.Load(…)              // tree.jsonl of the reference data
//	want := treecmp.FromLayers(…)        // the tars a form was made from
//	got  := treecmp.List("/mnt")         // what the kernel shows, symlinks not followed
//	for _, d := range treecmp.Diff(want, got, treecmp.Ignore{Path: "/lost+found", Why: "mkfs made it"}) {
//		t.Error(d)
//	}
//
// It is test support: it holds no state, starts no goroutine, mounts nothing
// and is not for production code.
package treecmp

import (
	"slices"
	"time"
)

// The types of Entry.Type, spelled as in tree.jsonl.
const (
	File    = "file"
	Dir     = "dir"
	Symlink = "symlink"
	Fifo    = "fifo"
	Char    = "char"
	Block   = "block"
	Socket  = "socket"
)

// Entry is what one path of a root file system is. Fields that a source does
// not define (the time of the root, the size of a directory) are zero and are
// not compared.
type Entry struct {
	Path string // absolute, "/" for the root
	Type string
	Mode uint32 // permission, setuid, setgid and sticky bits: 0 to 07777
	UID  uint32
	GID  uint32

	Mtime time.Time // UTC; the zero Time where the source defines none

	Size   int64  // of files and symlinks
	SHA256 string // of files, hex
	Target string // of symlinks

	RdevMajor uint32 // of devices
	RdevMinor uint32

	Xattrs map[string]string // name to raw value

	// Hardlinks are all names of this inode in the tree, sorted, where there
	// is more than one. Nlink is the link count that lstat shows, or would; 0
	// for directories.
	Hardlinks []string
	Nlink     int
}

// Tree is a root file system by path.
type Tree map[string]Entry

// Paths returns the paths in byte order.
func (t Tree) Paths() []string {
	paths := make([]string, 0, len(t))
	for path := range t {
		paths = append(paths, path)
	}
	slices.Sort(paths)
	return paths
}

// link fills in Hardlinks for every group of paths, and Nlink where counts is
// set: the number of names visible in the tree.
func (t Tree) link(groups [][]string, counts bool) {
	for _, names := range groups {
		slices.Sort(names)
		for _, name := range names {
			e := t[name]
			if len(names) > 1 {
				e.Hardlinks = names
			}
			if counts {
				e.Nlink = len(names)
			}
			t[name] = e
		}
	}
}

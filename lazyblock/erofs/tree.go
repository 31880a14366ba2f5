package erofs

import (
	"fmt"
	"path"
	"strings"
)

// Tree is a whole file system: what the layers applied so far add up to.
type Tree struct {
	root    *Inode
	limits  Limits
	used    usage
	layouts uint32 // how many Layouts were made; marks their scratch fields
}

// Limits bound the memory that a tree may take, whatever its layers say.
// A zero field means its default.
type Limits struct {
	Entries int   // files and directories over all layers, parents that no layer names included; default 2 Mi
	Bytes   int64 // of names, link targets and attributes over all layers; default 512 MiB
}

const (
	defaultEntries = 2 << 20
	defaultBytes   = 512 << 20
)

type usage struct {
	entries int
	bytes   int64
}

// NewTree returns a file system of one directory, owned by root, 0755.
func NewTree(limits Limits) *Tree {
	if limits.Entries == 0 {
		limits.Entries = defaultEntries
	}
	if limits.Bytes == 0 {
		limits.Bytes = defaultBytes
	}
	return &Tree{root: newDir(), limits: limits}
}

// newDir is a directory that nobody described.
func newDir() *Inode {
	return &Inode{Mode: TypeDir | 0o755, children: map[string]*Inode{}}
}

// Lookup returns what is at an absolute, clean path. Symbolic links are not
// followed. The inode must not be changed.
func (t *Tree) Lookup(name string) (*Inode, bool) {
	at := t.root
	for _, part := range split(name) {
		if at = at.children[part]; at == nil {
			return nil, false
		}
	}
	return at, true
}

// charge counts one entry, or reports that the limits are reached.
func (u *usage) charge(limits Limits, name string, in *Inode) error {
	u.entries++
	u.bytes += int64(len(name) + len(in.Target))
	for _, a := range in.Xattrs {
		u.bytes += int64(len(a.Name) + len(a.Value))
	}
	if u.entries > limits.Entries || u.bytes > limits.Bytes {
		return fmt.Errorf("%w: more than %d entries or %d bytes of names, links and attributes", ErrInvalid, limits.Entries, limits.Bytes)
	}
	return nil
}

// split returns the parts of a path taken as absolute: ".." ends at the root.
func split(name string) []string {
	name = path.Clean("/" + name)
	if name == "/" {
		return nil
	}
	return strings.Split(name[1:], "/")
}

// Bounds of the work of resolving one path, so that symbolic links which
// multiply each other cannot stall a conversion.
const (
	maxLinks = 40 // as the kernel follows
	maxSteps = 8192
)

// resolve follows symbolic links below root in every part and returns the clean
// path they lead to, which need not exist. Links cannot leave root.
func resolve(root *Inode, parts []string) ([]string, error) {
	var done []string
	trail := []*Inode{root} // trail[i] is the directory of done[:i], nil where nothing is
	todo, links := parts, 0
	for steps := 0; len(todo) > 0; steps++ {
		if links > maxLinks || steps+len(todo) > maxSteps {
			return nil, fmt.Errorf("%w: too many levels of symbolic links", ErrInvalid)
		}
		part := todo[0]
		todo = todo[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			if len(done) > 0 {
				done, trail = done[:len(done)-1], trail[:len(trail)-1]
			}
			continue
		}
		var next *Inode
		if at := trail[len(trail)-1]; at != nil {
			next = at.children[part]
		}
		if next != nil && next.Type() == TypeSymlink {
			links++
			if strings.HasPrefix(next.Target, "/") {
				done, trail = done[:0], trail[:1]
			}
			todo = append(strings.Split(next.Target, "/"), todo...)
			continue
		}
		done, trail = append(done, part), append(trail, next)
	}
	size := 0
	for _, part := range done {
		size += len(part) + 1
	}
	if size > MaxPath {
		return nil, fmt.Errorf("%w: path of %d bytes, more than %d", ErrInvalid, size, MaxPath)
	}
	return done, nil
}

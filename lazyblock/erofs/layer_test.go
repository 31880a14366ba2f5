package erofs

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// step is one entry of a test layer: "kind name[ argument]".
//
//	d name        directory        f name         file, its size is its number
//	l name target symbolic link    h name target  hard link
//	p name        fifo             c name         character device 1:3
func apply(t *testing.T, tree *Tree, steps ...string) error {
	t.Helper()
	layer := tree.NewLayer()
	for i, step := range steps {
		words := strings.Split(step, " ")
		name, arg := words[1], ""
		if len(words) > 2 {
			arg = words[2]
		}
		in := Inode{Mode: 0o644, UID: uint32(i + 1), Mtime: int64(i + 1)}
		var err error
		switch words[0] {
		case "d":
			in.Mode = TypeDir | 0o700
			err = layer.Add(name, in)
		case "f":
			in.Mode |= TypeRegular
			in.Size = int64(i + 1)
			err = layer.Add(name, in)
		case "l":
			in.Mode |= TypeSymlink
			in.Target = arg
			err = layer.Add(name, in)
		case "p":
			in.Mode |= TypeFIFO
			err = layer.Add(name, in)
		case "c":
			in.Mode |= TypeChar
			in.Major, in.Minor = 1, 3
			err = layer.Add(name, in)
		case "0":
			in.Mode |= TypeChar
			err = layer.Add(name, in)
		case "h":
			err = layer.Link(name, arg, in)
		default:
			t.Fatalf("bad step %q", step)
		}
		if err != nil {
			return err
		}
	}
	return tree.Apply(layer)
}

// shape lists a tree shortly: kind, owner (the number of the step that made
// it), and what else tells it from others.
func shape(tree *Tree) []string {
	var lines []string
	var walk func(name string, in *Inode)
	walk = func(name string, in *Inode) {
		for _, child := range slices.Sorted(maps.Keys(in.children)) {
			c, full := in.children[child], name+"/"+child
			switch c.Type() {
			case TypeDir:
				lines = append(lines, fmt.Sprintf("d%d %s", c.UID, full))
				walk(full, c)
			case TypeRegular:
				lines = append(lines, fmt.Sprintf("f%d %s size %d", c.UID, full, c.Size))
			case TypeSymlink:
				lines = append(lines, fmt.Sprintf("l%d %s %s", c.UID, full, c.Target))
			default:
				lines = append(lines, fmt.Sprintf("%o%d %s", c.Type(), c.UID, full))
			}
		}
	}
	walk("", tree.root)
	return lines
}

func TestLayers(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		layers [][]string
		want   []string
	}{
		"last entry of a path wins":                  {[][]string{{"f a", "p a", "f a"}}, []string{"f3 /a size 3"}},
		"missing parents belong to root":             {[][]string{{"f a/b/c"}}, []string{"d0 /a", "d0 /a/b", "f1 /a/b/c size 1"}},
		"a directory entry keeps its children":       {[][]string{{"f a/b", "d a"}}, []string{"d2 /a", "f1 /a/b size 1"}},
		"missing parents take the lower's metadata":  {[][]string{{"p x", "d a"}, {"f a/b"}}, []string{"d2 /a", "f1 /a/b size 1", "100001 /x"}},
		"directories merge":                          {[][]string{{"d a", "f a/b"}, {"d a", "d a", "f a/c"}}, []string{"d2 /a", "f2 /a/b size 2", "f3 /a/c size 3"}},
		"whiteout of a file":                         {[][]string{{"f a", "f b"}, {"f .wh.a"}}, []string{"f2 /b size 2"}},
		"whiteout of a tree":                         {[][]string{{"f a/b/c", "f d"}, {"f .wh.a"}}, []string{"f2 /d size 2"}},
		"whiteout of what is not there":              {[][]string{{"f a"}, {"f .wh.b"}}, []string{"f1 /a size 1"}},
		"whiteout spares its own layer":              {[][]string{{"f a"}, {"f a", "f .wh.a"}}, []string{"f1 /a size 1"}},
		"whiteout before its own layer's entry":      {[][]string{{"f a/x"}, {"f .wh.a", "f a/y"}}, []string{"d0 /a", "f2 /a/y size 2"}},
		"whiteout beside a directory":                {[][]string{{"f a/x"}, {"d a", "f .wh.a"}}, []string{"d1 /a"}},
		"whiteout before a directory":                {[][]string{{"f a/x"}, {"f .wh.a", "d a"}}, []string{"d2 /a"}},
		"whiteout of a name that begins with .wh.":   {[][]string{{"f a"}, {"f .wh..wh.a"}}, []string{"f1 /a size 1"}},
		"overlayfs whiteout":                         {[][]string{{"f a"}, {"0 a"}}, nil},
		"device is no whiteout":                      {[][]string{{"f a"}, {"c a"}}, []string{"200001 /a"}},
		"opaque directory":                           {[][]string{{"f a/b/c", "f a/d"}, {"f a/b/x", "f a/.wh..wh..opq"}}, []string{"d0 /a", "d0 /a/b", "f1 /a/b/x size 1"}},
		"opaque directory without entry":             {[][]string{{"p x", "d a", "f a/b"}, {"f a/.wh..wh..opq"}}, []string{"d2 /a", "100001 /x"}},
		"opaque root":                                {[][]string{{"f a"}, {"f b", "f .wh..wh..opq"}}, []string{"f1 /b size 1"}},
		"file over a directory":                      {[][]string{{"f a/b"}, {"f a"}}, []string{"f1 /a size 1"}},
		"directory over a file":                      {[][]string{{"f a"}, {"f a/b"}}, []string{"d0 /a", "f1 /a/b size 1"}},
		"link in the layer is followed":              {[][]string{{"l a b", "f a/c"}}, []string{"l1 /a b", "d0 /b", "f2 /b/c size 2"}},
		"link of a lower layer is replaced":          {[][]string{{"l a b", "d b"}, {"f a/c"}}, []string{"d2 /a", "f1 /a/c size 1", "d2 /b"}},
		"link out of the root is clamped":            {[][]string{{"l a ../../b", "f a/c"}}, []string{"l1 /a ../../b", "d0 /b", "f2 /b/c size 2"}},
		"absolute link starts at the root":           {[][]string{{"l x/a /b", "f x/a/c"}}, []string{"d0 /b", "f2 /b/c size 2", "d0 /x", "l1 /x/a /b"}},
		"names out of the root are clamped":          {[][]string{{"f ../../a", "f /b/../../c"}}, []string{"f1 /a size 1", "f2 /c size 2"}},
		"hard link":                                  {[][]string{{"f a", "h b a"}}, []string{"f2 /a size 1", "f2 /b size 1"}},
		"hard link to a lower layer":                 {[][]string{{"f a"}, {"p x", "h b a"}}, []string{"f2 /a size 1", "f2 /b size 1", "100001 /x"}},
		"hard link through a link":                   {[][]string{{"f d/a", "l l d", "h b l/a"}}, []string{"f3 /b size 1", "d0 /d", "f3 /d/a size 1", "l2 /l d"}},
		"hard link to a link":                        {[][]string{{"l a x", "h b a"}}, []string{"l2 /a x", "l2 /b x"}},
		"hard link to a lower file replaced here":    {[][]string{{"f a"}, {"h b a", "f a"}}, []string{"f2 /a size 2", "f1 /b size 1"}},
		"the root's entry":                           {[][]string{{"d ./", "f a"}}, []string{"f2 /a size 2"}},
		"a root that is no directory is ignored":     {[][]string{{"f /", "f a"}}, []string{"f2 /a size 2"}},
		"an empty layer":                             {[][]string{{"f a"}, {}}, []string{"f1 /a size 1"}},
		"whiteout under a link goes where it points": {[][]string{{"f b/c"}, {"l a b", "f a/.wh.c"}}, []string{"l1 /a b", "d0 /b"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tree := NewTree(Limits{})
			for _, steps := range tc.layers {
				if err := apply(t, tree, steps...); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff(tc.want, shape(tree)); diff != "" {
				t.Error(diff)
			}
			writeTree(t, tree, LayoutOptions{})
		})
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("n", 256)
	bomb := []string{}
	for i := range 60 {
		bomb = append(bomb, fmt.Sprintf("l l%d %s", i, strings.Repeat(fmt.Sprintf("l%d/", i+1), 900)))
	}
	for name, steps := range map[string][]string{
		"name too long":                  {"f " + long},
		"parent's name too long":         {"f " + long + "/a"},
		"path too long":                  {"f " + strings.Repeat("a/", 2048) + "b"},
		"path too long through links":    {"l l " + strings.Repeat("a/", 2000) + "b", "f l/" + strings.Repeat("a/", 500)},
		"link target too long":           {"l a " + strings.Repeat("x", 4096)},
		"empty link target":              {"l a "},
		"NUL in a name":                  {"f a\x00b"},
		"file as parent":                 {"f a", "f a/b"},
		"whiteout of nothing":            {"f .wh."},
		"whiteout of the directory":      {"f a/.wh.."},
		"whiteout of the parent":         {"f a/.wh..."},
		"hard link to nothing":           {"h a b"},
		"hard link to a directory":       {"d b", "h a b"},
		"hard link to the root":          {"h a /"},
		"hard link as the root":          {"f a", "h / a"},
		"hard link to a whiteout":        {"f .wh.b", "h a b"},
		"links in a circle":              {"l a b", "l b a", "f a/c"},
		"links that multiply each other": append(bomb, "f l0/x"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tree := NewTree(Limits{})
			if err := apply(t, tree, steps...); !errors.Is(err, ErrInvalid) {
				t.Errorf("got error %v", err)
			}
			if got := shape(tree); got != nil {
				t.Errorf("tree changed: %v", got)
			}
		})
	}
}

func TestInodesThatNoFileSystemHolds(t *testing.T) {
	t.Parallel()
	many := map[string]string{}
	for i := range 5000 {
		many[fmt.Sprintf("user.%032d", i)] = ""
	}
	fat := map[string]string{}
	for i := range 5 {
		fat[fmt.Sprint("user.", i)] = strings.Repeat("v", 60000)
	}
	for name, in := range map[string]Inode{
		"no type":                   {Mode: 0o644},
		"negative size":             {Mode: TypeRegular, Size: -1},
		"minor number too large":    {Mode: TypeBlock, Minor: 1 << 20},
		"major number too large":    {Mode: TypeChar, Major: 1 << 12},
		"nanoseconds of a second":   {Mode: TypeDir, Nsec: 1e9},
		"unknown xattr namespace":   {Mode: TypeDir, Xattrs: Xattrs{{"x.y", ""}}},
		"xattr that is all prefix":  {Mode: TypeDir, Xattrs: Xattrs{{"user.", ""}}},
		"xattr name too long":       {Mode: TypeDir, Xattrs: Xattrs{{"user." + strings.Repeat("n", 251), ""}}},
		"xattr value too long":      {Mode: TypeDir, Xattrs: Xattrs{{"user.a", strings.Repeat("v", 65536)}}},
		"xattrs unsorted":           {Mode: TypeDir, Xattrs: Xattrs{{"user.b", ""}, {"user.a", ""}}},
		"xattr names beyond a list": {Mode: TypeDir, Xattrs: NewXattrs(many)},
		"xattrs beyond 16 bits":     {Mode: TypeDir, Xattrs: NewXattrs(fat)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if err := NewTree(Limits{}).NewLayer().Add("a", in); !errors.Is(err, ErrInvalid) {
				t.Errorf("got error %v", err)
			}
		})
	}
}

func TestLimitsHoldOverAllLayers(t *testing.T) {
	t.Parallel()
	for name, limits := range map[string]Limits{"entries": {Entries: 10}, "bytes": {Bytes: 30}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tree := NewTree(limits)
			for i := range 8 {
				err := apply(t, tree, "f a/b", "f .wh.a")
				switch {
				case i < 2 && err != nil:
					t.Fatal(err)
				case err != nil && errors.Is(err, ErrInvalid):
					return
				}
			}
			t.Error("limit never reached")
		})
	}
}

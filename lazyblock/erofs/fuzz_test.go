package erofs

import (
	"errors"
	"strings"
	"testing"
)

// FuzzLayers builds layers from lines of "kind name argument" and checks that
// what is accepted is written so that it reads back as the tree.
func FuzzLayers(f *testing.F) {
	f.Add("f a\nd b/c\nl x b\nf x/y\n\nf .wh.a\nh z b/c\n\nd b\nf b/.wh..wh..opq", uint8(12))
	f.Add("d a\nf a/.wh.b\nf a/b\n\n0 a\nc d\np e\nh f e", uint8(9))
	f.Add("l a b\nl b a\nf a/c", uint8(10))
	f.Fuzz(func(t *testing.T, script string, bits uint8) {
		if len(script) > 1<<14 {
			return
		}
		tree := NewTree(Limits{Entries: 2000, Bytes: 1 << 16})
		for part := range strings.SplitSeq(script, "\n\n") {
			layer := tree.NewLayer()
			for line := range strings.SplitSeq(part, "\n") {
				words := append(strings.SplitN(line, " ", 3), "", "")
				in := Inode{Mode: uint32(len(line)), Mtime: int64(len(line) % 3), UID: uint32(len(line)) << (bits % 20)}
				kinds := map[string]uint32{"d": TypeDir, "f": TypeRegular, "l": TypeSymlink, "p": TypeFIFO, "c": TypeChar, "0": TypeChar, "b": TypeBlock}
				in.Mode |= kinds[words[0]]
				in.Target = words[2]
				if words[0] == "c" {
					in.Major = 5
				}
				if len(words[2]) > 3 {
					in.Xattrs = NewXattrs(map[string]string{"user." + words[2][:2]: words[2], "security.x": words[2][1:]})
				}
				var err error
				if words[0] == "h" {
					err = layer.Link(words[1], words[2], in)
				} else {
					err = layer.Add(words[1], in)
				}
				if err != nil && !errors.Is(err, ErrInvalid) {
					t.Errorf("%q: error does not blame the image: %v", line, err)
				}
			}
			if err := tree.Apply(layer); err != nil { // refused entries have changed nothing
				t.Fatal(err)
			}
			writeTree(t, tree, LayoutOptions{BlockBits: 9 + bits%4})
		}
	})
}

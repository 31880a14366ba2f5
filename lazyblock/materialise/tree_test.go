package materialise

import (
	"archive/tar"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/archive"
	"golang.org/x/sys/unix"

	"github.com/referee-cri/referee/internal/testdata"
	"github.com/referee-cri/referee/internal/treecmp"
)

// TestReferenceImage compares every prefix of the reference image with what
// containerd's own unpacking of it shows through overlayfs.
func TestReferenceImage(t *testing.T) {
	t.Parallel()
	reference := testdata.Dir(t, "reference")
	for n, recorded := range []string{"tiny.prefix1.tree.jsonl", "tiny.prefix2.tree.jsonl", "tiny.prefix3.tree.jsonl", "tiny.tree.jsonl"} {
		t.Run(recorded, func(t *testing.T) {
			t.Parallel()
			b := newDiskBed(t)
			layers := b.loadImage(t, filepath.Join(reference, "tiny"), "tiny")
			if err := b.make(t, layers[:n+1]); err != nil {
				t.Fatal(err)
			}
			treecmp.ExpectAt(t, treecmp.Recorded(t, recorded), b.tree(), treecmp.Ignore{
				Path: "/wh/link-a", Field: treecmp.FieldNlink, Why: "overlayfs counts a name that a layer whited out",
			})
		})
	}
}

// TestLowerLinkIsRefusedAsContainerdDoes: a hard link to a file of a lower layer.
func TestLowerLinkIsRefusedAsContainerdDoes(t *testing.T) {
	t.Parallel()
	b := newDiskBed(t)
	layers := b.loadImage(t, filepath.Join(testdata.Dir(t, "reference"), "tiny"), "tiny-lower-link")
	if err := b.make(t, layers); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("got %v", err)
	}
	b.expectNothing(t)
}

// loadImage pushes a layout and returns the layers of the image with that tag.
func (b *bed) loadImage(t *testing.T, layout, tag string) []Layer {
	t.Helper()
	if _, err := b.LoadLayout("app", layout); err != nil {
		t.Fatal(err)
	}
	image := testdata.ReadImage(t, layout, tag)
	var layers []Layer
	for i, desc := range image.Manifest.Layers {
		layers = append(layers, Layer{Descriptor: desc, DiffID: image.Config.RootFS.DiffIDs[i]})
	}
	return layers
}

// TestStacksLookAsOverlayfsShowsThem compares stacks that tell ways of merging
// apart with a real overlay mount over what containerd's code unpacks.
func TestStacksLookAsOverlayfsShowsThem(t *testing.T) {
	t.Parallel()
	xattr := func(name, value string) func(*tar.Header) {
		return func(h *tar.Header) { h.PAXRecords = map[string]string{"SCHILY.xattr." + name: value} }
	}
	owned := func(h *tar.Header) {
		h.Uid, h.Gid, h.ModTime = 1234, 5678, time.Unix(1234567890, 987654321)
	}
	for name, stack := range map[string][][]entry{
		"an entry below a link of a lower layer": {
			{dir("usr/", 0o755), dir("usr/lib/", 0o755), file("usr/lib/old", "old"), link(tar.TypeSymlink, "lib", "usr/lib")},
			{file("lib/new", "new")},
		},
		"a directory's metadata is the upper one's": {
			{with(dir("d/", 0o700), owned), with(dir("d/e/", 0o700), xattr("user.below", "1")), file("d/e/f", "f")},
			{with(dir("d/", 0o1777), xattr("user.above", "2")), dir("d/e/", 0o2755)},
		},
		"missing parents look like those below": {
			{with(with(dir("p/", 0o2750), owned), xattr("user.kept", "3")), file("p/a", "a")},
			{file("p/b", "b"), file("q/r/s", "s")},
			{file("p/c", "c")},
		},
		"whiteouts": {
			{file("f", "1"), dir("d/", 0o755), file("d/f", "2"), dir("gone/", 0o755), file("gone/f", "3"), file("back", "4")},
			{file(".wh.f", ""), file("d/.wh.f", ""), file(".wh.gone", ""), file(".wh.back", ""), file(".wh.never", "")},
			{file("back", "5"), file("gone", "now a file")},
		},
		"opaque directories": {
			{dir("o/", 0o755), file("o/old", "1"), dir("o/sub/", 0o755), file("o/sub/old", "2")},
			{dir("o/", 0o750), file("o/.wh..wh..opq", ""), dir("o/sub/", 0o700), file("o/sub/new", "3")},
			{file("o/sub/newest", "4"), dir("o/deep/", 0o755), file("o/deep/.wh..wh..opq", "")},
		},
		"types change": {
			{file("a", "file"), dir("b/", 0o755), file("b/x", "x"), link(tar.TypeSymlink, "c", "a"), file("d", "d")},
			{dir("a/", 0o755), file("a/x", "x"), file("b", "file"), dir("c/", 0o711), link(tar.TypeSymlink, "d", "nowhere")},
			{link(tar.TypeSymlink, "a", "b"), dir("b/", 0o755), file("c", "file"), dir("d/", 0o755)},
		},
		"hard links break where a layer replaces one name": {
			{file("a", "one"), link(tar.TypeLink, "b", "a"), link(tar.TypeLink, "c", "b")},
			{file("b", "two"), link(tar.TypeLink, "d", "b"), file(".wh.c", "")},
		},
		"a device 0:0 hides": {
			{file("a", "a"), entry{tar.Header{Typeflag: tar.TypeChar, Name: "n", Mode: 0o666}, ""}},
			{entry{tar.Header{Typeflag: tar.TypeChar, Name: "a", Mode: 0o666}, ""}, entry{tar.Header{Typeflag: tar.TypeChar, Name: "null", Mode: 0o666, Devmajor: 1, Devminor: 3}, ""}},
		},
		"attributes for overlayfs are not obeyed": {
			{dir("d/", 0o755), file("d/f", "f")},
			{with(dir("d/", 0o755), xattr("trusted.overlay.opaque", "y")), with(file("g", "g"), xattr("security.capability", "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"))},
		},
		"names that climb stay inside": {
			{file("../../x", "x"), link(tar.TypeSymlink, "up", "../../.."), file("up/y", "y"), dir("/abs/", 0o755)},
			{file("up/z", "z")},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newDiskBed(t)
			var tars [][]byte
			for _, entries := range stack {
				tars = append(tars, makeTar(t, entries...))
			}
			want := b.overlay(t, tars)
			if err := b.make(t, b.pushGzip(t, tars...)); err != nil {
				t.Fatal(err)
			}
			got, err := treecmp.List(b.tree())
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range treecmp.Diff(want, got, treecmp.Ignore{Field: treecmp.FieldNlink, Why: "overlayfs counts names that are hidden"}) {
				t.Error(d)
			}
			if entries, err := os.ReadDir(b.dir); err != nil || len(entries) != 1 {
				t.Errorf("beside the tree: %v, %v", entries, err)
			}
		})
	}
}

// overlay lists what overlayfs shows of layers that containerd's code unpacked.
func (*bed) overlay(t *testing.T, tars [][]byte) treecmp.Tree {
	t.Helper()
	begin := time.Now().Add(-time.Second)
	base, target := t.TempDir(), t.TempDir()
	lowers := []string{filepath.Join(base, "empty")} // overlayfs wants two; top first
	if err := os.Mkdir(lowers[0], 0o755); err != nil {
		t.Fatal(err)
	}
	for i, layer := range tars {
		upper := filepath.Join(base, fmt.Sprint(i))
		if err := os.Mkdir(upper, 0o755); err != nil {
			t.Fatal(err)
		}
		var opts []archive.ApplyOpt
		if i > 0 {
			opts = append(opts, archive.WithConvertWhiteout(archive.OverlayConvertWhiteout), archive.WithParents(lowers[:i]))
		}
		if _, err := archive.Apply(t.Context(), upper, bytes.NewReader(layer), opts...); err != nil {
			t.Fatal(err)
		}
		lowers = append([]string{upper}, lowers...)
	}
	if err := unix.Mount("overlay", target, "overlay", unix.MS_RDONLY, "lowerdir="+strings.Join(lowers, ":")); err != nil {
		t.Fatalf("mount overlay: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(target, 0); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	tree, err := treecmp.List(target)
	if err != nil {
		t.Fatal(err)
	}
	for path, e := range tree {
		if e.Type == treecmp.Dir && e.Mtime.After(begin) {
			e.Mtime = time.Time{} // made while unpacking, not by the layer
			tree[path] = e
		}
	}
	return tree
}

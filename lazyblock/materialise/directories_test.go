package materialise

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/archive"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/internal/regtest"
	"github.com/referee-cri/referee/internal/treecmp"
)

// TestDirectoriesAreOfTheRightParents lets containerd's code unpack a layer over
// something else, and then looks for any trace of that.
func TestDirectoriesAreOfTheRightParents(t *testing.T) {
	t.Parallel()
	owned := func(h *tar.Header) { h.Uid, h.Gid, h.ModTime = 666, 667, time.Unix(1234567890, 987654321) }
	capable := func(h *tar.Header) { h.PAXRecords = map[string]string{"SCHILY.xattr.user.evil": "1"} }
	kept := func(h *tar.Header) { h.PAXRecords = map[string]string{"SCHILY.xattr.user.kept": "2"} }
	right := []entry{with(dir("./", 0o755), func(h *tar.Header) { h.Uid = 7 }), with(dir("a/", 0o2750), kept), with(dir("a/b/", 0o700), owned), dir("own/", 0o755), dir("opaque/", 0o755), file("opaque/old", "x")}
	for name, wrong := range map[string][]entry{
		"the same":          right,
		"open to all":       {dir("a/", 0o777), dir("a/b/", 0o1777), dir("own/", 0o777), dir("opaque/", 0o777)},
		"somebody else's":   {with(dir("./", 0o777), owned), with(dir("a/", 0o755), owned), with(dir("a/b/", 0o755), owned)},
		"more attributes":   {with(dir("a/", 0o755), capable), with(dir("a/b/", 0o755), capable)},
		"links":             {dir("else/", 0o777), link(tar.TypeSymlink, "a", "else"), link(tar.TypeSymlink, "own", "/else")},
		"nothing there":     {},
		"another directory": {dir("new/", 0o777), dir("new/deep/", 0o777)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newDiskBed(t)
			layer := makeTar(t,
				file("a/b/c", "c"), file("a/d", "d"), file("new/deep/f", "f"), with(dir("own/", 0o711), owned), file("own/f", "f"),
				dir("opaque/", 0o755), file("opaque/.wh..wh..opq", ""), file(".wh.gone", ""))
			below := unpackOver(t, makeTar(t, right...))
			want := unpackOver(t, layer, below)
			have := unpackOver(t, layer, unpackOver(t, makeTar(t, wrong...)))
			pushed := b.pushGzip(t, layer)[0]
			if err := Directories(t.Context(), Unpacked{have, []string{below}, b.dir}, pushed, b.repo, b.options()); err != nil {
				t.Fatal(err)
			}
			expectSame(t, want, have)
			b.expectNothing(t)
		})
	}
}

// TestDirectoriesStayWithoutTheLayer gives nothing that could be believed.
func TestDirectoriesStayWithoutTheLayer(t *testing.T) {
	t.Parallel()
	layer := makeTar(t, file("a/b", "b"), file("c/d", "d"))
	for name, tc := range map[string]struct {
		fault  regtest.Fault
		change func(t *testing.T, have string, layer *Layer)
		want   reason.Code
	}{
		"other bytes":     {fault: regtest.Fault{FlipAt: ptr(int64(60))}, want: reason.DigestMismatch},
		"gone":            {fault: regtest.Fault{Status: 404}, want: reason.NotFound},
		"another diff ID": {change: func(_ *testing.T, _ string, l *Layer) { l.DiffID = l.Digest }, want: reason.DigestMismatch},
		"a directory is a link": {change: func(t *testing.T, have string, _ *Layer) {
			t.Helper()
			if err := os.Rename(filepath.Join(have, "c"), filepath.Join(have, "moved")); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink("moved", filepath.Join(have, "c")); err != nil {
				t.Fatal(err)
			}
		}, want: reason.LayerMismatch},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newDiskBed(t)
			have := unpackOver(t, layer, unpackOver(t, makeTar(t, dir("a/", 0o777), dir("c/", 0o777))))
			pushed := b.pushGzip(t, layer)[0]
			if tc.change != nil {
				tc.change(t, have, &pushed)
			} else {
				tc.fault.Match = regtest.Path("/blobs/")
				b.Inject(tc.fault)
			}
			before, err := treecmp.List(have)
			if err != nil {
				t.Fatal(err)
			}
			err = Directories(t.Context(), Unpacked{have, []string{unpackOver(t, makeTar(t, dir("a/", 0o700)))}, b.dir}, pushed, b.repo, b.options())
			if reason.Of(err) != tc.want {
				t.Errorf("%v (%s), want %s", err, reason.Of(err), tc.want)
			}
			after, err := treecmp.List(have)
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range treecmp.Diff(before, after) {
				t.Error(d)
			}
			b.expectNothing(t)
		})
	}
}

// unpackOver is what containerd does for its overlayfs snapshotter.
func unpackOver(t *testing.T, layer []byte, parents ...string) string {
	t.Helper()
	upper := filepath.Join(t.TempDir(), "fs")
	if err := os.Mkdir(upper, 0o755); err != nil {
		t.Fatal(err)
	}
	var opts []archive.ApplyOpt
	if len(parents) > 0 {
		info, err := os.Stat(parents[0])
		if err != nil {
			t.Fatal(err)
		}
		below, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			t.Fatalf("%T", info.Sys())
		}
		if err := os.Chown(upper, int(below.Uid), int(below.Gid)); err != nil {
			t.Fatal(err)
		}
		opts = append(opts, archive.WithConvertWhiteout(archive.OverlayConvertWhiteout), archive.WithParents(parents))
	}
	if _, err := archive.Apply(t.Context(), upper, bytes.NewReader(layer), opts...); err != nil {
		t.Fatal(err)
	}
	return upper
}

// expectSame compares two trees, but for the times of directories in which
// something was made.
func expectSame(t *testing.T, want, have string) {
	t.Helper()
	trees := make([]treecmp.Tree, 2)
	for i, dir := range []string{want, have} {
		tree, err := treecmp.List(dir)
		if err != nil {
			t.Fatal(err)
		}
		trees[i] = tree
	}
	var accepted []treecmp.Ignore
	for _, path := range []string{"/", "/a", "/a/b", "/new", "/new/deep", "/opaque", "/gone"} {
		for _, field := range []string{treecmp.FieldMtime, treecmp.FieldNsec} {
			accepted = append(accepted, treecmp.Ignore{Path: path, Field: field, Why: "made now"})
		}
	}
	for _, d := range treecmp.Diff(trees[0], trees[1], accepted...) {
		t.Error(d)
	}
}

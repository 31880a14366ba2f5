package treecmp_test

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/referee-cri/referee/internal/fsimage"
	"github.com/referee-cri/referee/internal/testdata"
	"github.com/referee-cri/referee/internal/treecmp"
)

// layers are the unpacked layers of the image tag in an OCI layout.
func layers(t *testing.T, layout, tag string) (opened []io.Reader) {
	t.Helper()
	for _, layer := range fsimage.Tars(t, layout, tag) {
		opened = append(opened, bytes.NewReader(layer))
	}
	return opened
}

func TestLayersMergeToTheRecordedTree(t *testing.T) {
	t.Parallel()
	dir := testdata.Dir(t, "reference")
	for n := 1; n <= 4; n++ {
		t.Run(fmt.Sprintf("prefix %d", n), func(t *testing.T) {
			t.Parallel()
			recorded := filepath.Join(dir, "tiny.tree.jsonl")
			if n < 4 {
				recorded = filepath.Join(dir, fmt.Sprintf("tiny.prefix%d.tree.jsonl", n))
			}
			want, err := treecmp.Load(recorded)
			if err != nil {
				t.Fatal(err)
			}
			got, err := treecmp.FromLayers(layers(t, filepath.Join(dir, "tiny"), "tiny")[:n]...)
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range treecmp.Diff(want, got,
				treecmp.Ignore{Path: "/nasty/xattr/trusted", Field: treecmp.FieldXattrs, Why: "the recording unpacker drops trusted.lab"},
				treecmp.Ignore{Path: "/wh/link-a", Field: treecmp.FieldNlink, Why: "overlayfs still counts a whited-out name"},
			) {
				t.Error(d)
			}
		})
	}
}

func TestListSeesWhatWasMade(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.Chmod(root, 0o755))
	must(os.Mkdir(filepath.Join(root, "d"), 0o700))
	must(os.WriteFile(filepath.Join(root, "d/f"), []byte("hello"), 0o640))
	must(os.Link(filepath.Join(root, "d/f"), filepath.Join(root, "g")))
	must(os.Symlink("nowhere", filepath.Join(root, "s")))
	got, err := treecmp.List(root)
	must(err)

	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	uid, gid := os.Getuid(), os.Getgid()
	for _, h := range []*tar.Header{
		{Name: "d/", Typeflag: tar.TypeDir, Mode: 0o700},
		{Name: "d/f", Typeflag: tar.TypeReg, Mode: 0o640, Size: 5},
		{Name: "g", Typeflag: tar.TypeLink, Linkname: "d/f"},
		{Name: "s", Typeflag: tar.TypeSymlink, Linkname: "nowhere", Mode: 0o777},
	} {
		h.Uid, h.Gid = uid, gid
		must(tw.WriteHeader(h))
		if h.Size > 0 {
			_, err := tw.Write([]byte("hello"))
			must(err)
		}
	}
	must(tw.Close())
	want, err := treecmp.FromLayers(&buf)
	must(err)
	for _, d := range treecmp.Diff(want, got,
		treecmp.Ignore{Field: treecmp.FieldMtime, Why: "made just now"},
		treecmp.Ignore{Field: treecmp.FieldNsec, Why: "made just now"},
		treecmp.Ignore{Path: "/", Field: treecmp.FieldUID, Why: "the tar does not name it"},
		treecmp.Ignore{Path: "/", Field: treecmp.FieldGID, Why: "the tar does not name it"},
	) {
		t.Error(d)
	}
}

func TestDiffReportsAndIgnores(t *testing.T) {
	t.Parallel()
	want := treecmp.Tree{"/": {Type: treecmp.Dir}, "/a": {Type: treecmp.File, Mode: 0o644}, "/x/b": {Type: treecmp.File}}
	got := treecmp.Tree{"/": {Type: treecmp.Dir}, "/a": {Type: treecmp.File, Mode: 0o4755, Size: 1}, "/c": {Type: treecmp.Fifo}}
	for name, tc := range map[string]struct {
		ignores []treecmp.Ignore
		want    []string
	}{
		"everything": {nil, []string{
			`"/a" mode: want 0644, got 4755`, `"/a" size: want 0, got 1`,
			`"/c" presence: want absent, got present`, `"/x/b" presence: want present, got absent`,
		}},
		"one field of one path": {[]treecmp.Ignore{{Path: "/a", Field: "size"}}, []string{
			`"/a" mode: want 0644, got 4755`,
			`"/c" presence: want absent, got present`, `"/x/b" presence: want present, got absent`,
		}},
		"a path, a subtree and a field": {
			[]treecmp.Ignore{{Path: "/c"}, {Path: "/x/**"}, {Field: "mode"}},
			[]string{`"/a" size: want 0, got 1`},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var lines []string
			for _, d := range treecmp.Diff(want, got, tc.ignores...) {
				lines = append(lines, d.String())
			}
			if diff := cmp.Diff(tc.want, lines); diff != "" {
				t.Error(diff)
			}
		})
	}
}

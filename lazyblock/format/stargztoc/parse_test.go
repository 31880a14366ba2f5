package stargztoc

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/lazyblock/erofs"
)

// sum is a digest of anything.
const sum = "sha256:dc0e9c3658a1a3ed1ec94274d8b19925c93e1abb7ddba294923ad9bde30f8cb8"

// document is a table with the given rows. SUM stands for a digest.
func document(rows ...string) string {
	return strings.ReplaceAll(`{"version": 1, "entries": [`+strings.Join(rows, ", ")+`]}`, "SUM", sum)
}

func parse(t testing.TB, json string) (*Table, error) {
	t.Helper()
	return Parse(t.Context(), strings.NewReader(json), &Budget{})
}

func TestRowsBecomeFiles(t *testing.T) {
	t.Parallel()
	table, err := parse(t, document(
		`{"name": "a/", "type": "dir", "mode": 16877, "modtime": "2023-11-14T22:13:20Z"}`,
		`{"name": "a/f", "type": "reg", "size": 10, "mode": 420, "uid": 1, "gid": 2, "modtime": "2023-11-14T22:13:20.5+01:00", "offset": 100, "chunkSize": 4, "chunkDigest": "SUM", "xattrs": {"user.a": "Yg==", "trusted.b": "Yg=="}}`,
		`{"name": "a/f", "type": "chunk", "offset": 200, "chunkOffset": 4, "chunkSize": 4, "chunkType": "zeros"}`,
		`{"name": "a/f", "type": "chunk", "offset": 300, "endOffset": 310, "innerOffset": 7, "chunkOffset": 8, "chunkDigest": "SUM"}`,
		`{"name": "l", "type": "hardlink", "linkName": "a/f"}`,
		`{"name": "s", "type": "symlink", "linkName": "../x", "NumLink": 1}`,
		`{"name": "c", "type": "char", "devMajor": 4095, "devMinor": 1048575}`,
		`{"name": "g", "type": "reg", "size": 5, "offset": 400, "digest": "SUM"}`,
	))
	if err != nil {
		t.Fatal(err)
	}
	type file struct {
		Name, Link, Target string
		Mode               uint32
		Size, At, Mtime    int64
		Nsec, UID, GID     uint32
		Major, Minor       uint32
		Xattrs             erofs.Xattrs
	}
	var got []file
	for e, err := range table.entries.all {
		if err != nil {
			t.Fatal(err)
		}
		in := e.Inode
		got = append(got, file{e.Name, e.Link, in.Target, in.Mode, in.Size, e.At, in.Mtime, in.Nsec, in.UID, in.GID, in.Major, in.Minor, in.Xattrs})
	}
	want := []file{
		{Name: "a/", Mode: erofs.TypeDir | 0o755, Mtime: 1700000000},
		{Name: "a/f", Mode: erofs.TypeRegular | 0o644, Size: 10, Mtime: 1699996400, Nsec: 5e8, UID: 1, GID: 2, Xattrs: erofs.Xattrs{{Name: "user.a", Value: "b"}}},
		{Name: "l", Link: "a/f", Mode: erofs.TypeRegular, At: 10},
		{Name: "s", Target: "../x", Mode: erofs.TypeSymlink, At: 10},
		{Name: "c", Mode: erofs.TypeChar, Major: 4095, Minor: 1048575, At: 10},
		{Name: "g", Mode: erofs.TypeRegular, Size: 5, At: 10},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	if err := table.findEnds(500); err != nil {
		t.Fatal(err)
	}
	var stored [][5]int64
	for _, c := range table.chunks {
		stored = append(stored, [5]int64{c.at, c.size, c.off, c.end, c.inner})
	}
	if diff := cmp.Diff([][5]int64{{0, 4, 100, 300, 0}, {8, 2, 300, 310, 7}, {10, 5, 400, 500, 0}}, stored); diff != "" {
		t.Errorf("chunks (-want +got):\n%s", diff)
	}
}

func TestLandmarksAreNoFiles(t *testing.T) {
	t.Parallel()
	const landmark = `{"name": "%s", "type": "reg", "size": 1, "offset": 200, "digest": "SUM", "chunkDigest": "SUM"}`
	const file = `{"name": "f", "type": "reg", "size": 1, "offset": 100, "chunkDigest": "SUM"}`
	for name, want := range map[string]struct {
		files int
		marks int64
	}{
		".prefetch.landmark":     {1, 200},
		"./.prefetch.landmark":   {1, 200},
		"/.no.prefetch.landmark": {1, 0},
		"a/.prefetch.landmark":   {2, 0},
	} {
		table, err := parse(t, document(file, fmt.Sprintf(landmark, name)))
		if err != nil {
			t.Fatal(err)
		}
		files := len(table.entries[0])
		if files != want.files || table.landmark != want.marks {
			t.Errorf("%s: %d files, landmark at %d, want %d and %d", name, files, table.landmark, want.files, want.marks)
		}
		if err := table.findEnds(300); err != nil {
			t.Fatal(err)
		}
		if end := table.chunks[0].end; end != 200 {
			t.Errorf("%s: the file before it ends at %d, want 200", name, end)
		}
	}
}

func TestTablesThatCannotBeAreRefused(t *testing.T) {
	t.Parallel()
	file := func(rest string) string {
		return document(`{"name": "f", "type": "reg", "size": 10, "offset": 1, "chunkDigest": "SUM"` + rest + `}`)
	}
	for name, json := range map[string]string{
		"nothing":                 ``,
		"no object":               `[]`,
		"no entries":              `{"version": 1}`,
		"entries are no list":     `{"entries": {}}`,
		"two lists":               `{"entries": [], "entries": []}`,
		"no end":                  `{"entries": [`,
		"no end of the object":    `{"entries": []`,
		"row is no object":        document(`1`),
		"row too large":           document(`{"name": "` + strings.Repeat("a", maxRowBytes) + `"}`),
		"row nested too deep":     document(strings.Repeat(`[`, 20_000)),
		"other value too large":   `{"other": "` + strings.Repeat("a", maxRowBytes) + `"}`,
		"unknown type":            document(`{"name": "f", "type": "door"}`),
		"negative owner":          document(`{"name": "f", "type": "dir", "uid": -1}`),
		"owner too large":         document(`{"name": "f", "type": "dir", "uid": 4294967296}`),
		"negative size":           document(`{"name": "f", "type": "reg", "size": -1}`),
		"wrong time":              document(`{"name": "f", "type": "dir", "modtime": "yesterday"}`),
		"wrong attribute":         document(`{"name": "f", "type": "dir", "xattrs": {"user.a": "%"}}`),
		"link to nothing":         document(`{"name": "f", "type": "hardlink"}`),
		"chunk without file":      document(`{"name": "f", "type": "chunk", "offset": 1, "chunkDigest": "SUM"}`),
		"chunk after a directory": document(`{"name": "f", "type": "dir"}`, `{"name": "f", "type": "chunk", "offset": 1, "chunkDigest": "SUM"}`),
		"no digest":               document(`{"name": "f", "type": "reg", "size": 10, "offset": 1}`),
		"digest of a whole file for a part": document(`{"name": "f", "type": "reg", "size": 10, "offset": 1, "chunkSize": 5, "digest": "SUM"}`,
			`{"name": "f", "type": "chunk", "offset": 2, "chunkOffset": 5, "chunkDigest": "SUM"}`),
		"digest of another kind": document(`{"name": "f", "type": "reg", "size": 10, "offset": 1, "chunkDigest": "sha512:00"}`),
		"digest without hex":     document(`{"name": "f", "type": "reg", "size": 10, "offset": 1, "chunkDigest": "sha256:` + strings.Repeat("x", 64) + `"}`),
		"negative place":         file(`, "offset": -1`),
		"end before its start":   file(`, "endOffset": 1`),
		"negative inner place":   file(`, "innerOffset": -1`),
		"inner place far away":   file(`, "innerOffset": 1000000000000`),
		"negative chunk":         file(`, "chunkSize": -1`),
		"chunk not at the start": file(`, "chunkOffset": 1`),
		"chunk of unknown type":  file(`, "chunkType": "ones"`),
		"file not whole":         file(`, "chunkSize": 9`),
		"chunks with a gap": document(`{"name": "f", "type": "reg", "size": 10, "offset": 1, "chunkSize": 4, "chunkDigest": "SUM"}`,
			`{"name": "f", "type": "chunk", "offset": 2, "chunkOffset": 5, "chunkDigest": "SUM"}`),
		"files of too many bytes": document(`{"name": "f", "type": "reg", "size": 9223372036854775807, "offset": 1, "chunkType": "zeros"}`,
			`{"name": "g", "type": "reg", "size": 1, "offset": 1, "chunkDigest": "SUM"}`),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := parse(t, json); reason.Of(err) != reason.FormatCorrupt {
				t.Errorf("error %v, want one that calls the format corrupt", err)
			}
		})
	}
}

func TestChunksBehindTheDataAreRefused(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]string{
		"begins behind": `{"name": "f", "type": "reg", "size": 10, "offset": 100, "chunkDigest": "SUM"}`,
		"ends behind":   `{"name": "f", "type": "reg", "size": 10, "offset": 99, "endOffset": 101, "chunkDigest": "SUM"}`,
	} {
		table, err := parse(t, document(row))
		if err != nil {
			t.Fatal(err)
		}
		if err := table.findEnds(100); reason.Of(err) != reason.FormatCorrupt {
			t.Errorf("%s: error %v, want one that calls the format corrupt", name, err)
		}
	}
}

func TestErrorsOfTheReaderAreNotTheFormats(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	source := io.MultiReader(strings.NewReader(`{"entries": [`), iotest.ErrReader(broken))
	if _, err := Parse(t.Context(), source, &Budget{}); !errors.Is(err, broken) || reason.Of(err) != reason.Internal {
		t.Errorf("error %v, want the reader's", err)
	}
}

func TestAllTablesShareABudget(t *testing.T) {
	t.Parallel()
	budget := &Budget{}
	budget.rows.Store(maxRows - 1)
	row := document(`{"name": "f", "type": "dir"}`)
	if _, err := Parse(t.Context(), strings.NewReader(row), budget); err != nil {
		t.Fatal(err)
	}
	if _, err := Parse(t.Context(), strings.NewReader(row), budget); reason.Of(err) != reason.FormatCorrupt {
		t.Errorf("error %v, want one that calls the format corrupt", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(document(`{"name": "a/", "type": "dir", "mode": 16877, "modtime": "2023-11-14T22:13:20Z"}`))
	f.Add(document(`{"name": "f", "type": "reg", "size": 10, "offset": 1, "chunkSize": 4, "chunkDigest": "SUM", "xattrs": {"user.a": "Yg=="}}`,
		`{"name": "f", "type": "chunk", "offset": 2, "chunkOffset": 4, "chunkDigest": "SUM"}`))
	f.Add(document(`{"name": "f", "type": "reg", "size": 10, "chunkType": "zeros"}`, `{"name": "l", "type": "hardlink", "linkName": "f"}`))
	f.Add(document(`{"name": ".prefetch.landmark", "type": "reg", "size": 1, "offset": 200, "digest": "SUM"}`))
	f.Fuzz(func(t *testing.T, json string) {
		table, err := parse(t, json)
		if err != nil {
			if reason.Of(err) != reason.FormatCorrupt {
				t.Fatalf("error %v has another code", err)
			}
			return
		}
		end := int64(0)
		for _, c := range table.chunks {
			if c.at < end || c.size <= 0 || c.at+c.size > table.size {
				t.Fatalf("chunk of %d bytes at %d, behind %d, in files of %d bytes", c.size, c.at, end, table.size)
			}
			end = c.at + c.size
		}
		for e, err := range table.entries.all {
			if err != nil {
				t.Fatal(err)
			}
			if e.Link == "" && (e.At < 0 || e.Inode.Size < 0 || e.At+e.Inode.Size > table.size) {
				t.Fatalf("file of %d bytes at %d, in files of %d bytes", e.Inode.Size, e.At, table.size)
			}
		}
	})
}

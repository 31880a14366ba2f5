package treecmp

import (
	"path/filepath"
	"testing"

	"github.com/referee-cri/referee/internal/testdata"
)

// Recorded is the tree of that name of the reference data. Where the data is absent
// the test is skipped.
func Recorded(t testing.TB, name string) Tree {
	t.Helper()
	tree, err := Load(filepath.Join(testdata.Dir(t, "reference"), name))
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// Expect fails the test for each difference of got from want that is not ignored.
func Expect(t testing.TB, want, got Tree, ignores ...Ignore) {
	t.Helper()
	if len(got) < 2 && len(want) > 1 {
		t.Fatalf("the tree is empty, want %d paths", len(want))
	}
	for _, d := range Diff(want, got, ignores...) {
		t.Error(d)
	}
}

// ExpectAt lists what is at dir, symbolic links not followed, and expects want.
func ExpectAt(t testing.TB, want Tree, dir string, ignores ...Ignore) {
	t.Helper()
	got, err := List(dir)
	if err != nil {
		t.Fatal(err)
	}
	Expect(t, want, got, ignores...)
}

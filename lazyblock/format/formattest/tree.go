package formattest

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/zap"

	"github.com/referee-cri/referee/internal/treecmp"
	"github.com/referee-cri/referee/lazyblock"
	"github.com/referee-cri/referee/lazyblock/attach"
)

func prefixName(n, all int) string {
	if n == all {
		return "is the tree of all layers"
	}
	return fmt.Sprintf("is the tree of %d of %d layers", n, all)
}

// isTheTree mounts the first n layers and compares what the kernel shows.
func (b *bench) isTheTree(t *testing.T, n int, want treecmp.Tree) {
	v, err := b.Open(t.Context(), b.Image.form(n, inMemory))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeVolume(t, v) })
	got, err := treecmp.List(Mount(t, v))
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range treecmp.Diff(want, got, b.Ignores...) {
		t.Error(d)
	}
}

// Mount attaches a volume as a node does, until the test ends.
func Mount(t *testing.T, v lazyblock.Volume) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("attaching volumes needs root")
	}
	dir := t.TempDir()
	target := filepath.Join(dir, "mounted")
	if err := os.Mkdir(target, 0o700); err != nil {
		t.Fatal(err)
	}
	driver, err := attach.NewFUSE(t.Context(), filepath.Join(dir, "fuse"), nil, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	const id = "formattest"
	t.Cleanup(func() {
		if err := driver.Detach(id, target); err != nil {
			t.Error(err)
		}
		if err := driver.Close(); err != nil {
			t.Error(err)
		}
		if err := attach.Unmount(filepath.Join(dir, "fuse")); err != nil {
			t.Error(err)
		}
	})
	if err := driver.Attach(t.Context(), id, v, target); err != nil {
		t.Fatal(err)
	}
	return target
}

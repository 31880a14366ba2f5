package e2e_test

import (
	"path/filepath"
	"slices"
	"testing"

	"github.com/referee-cri/referee/fallback"
	"github.com/referee-cri/referee/internal/testdata"
	"github.com/referee-cri/referee/internal/treecmp"
)

// pushTiny stores the reference image with all that is attached to it and returns
// its reference.
func (b *bed) pushTiny(t *testing.T) (ref string) {
	t.Helper()
	b.pushLayout(t, filepath.Join(testdata.Dir(t, "reference"), "tiny"))
	return b.registry.Ref("tiny", "tiny")
}

// pushLayout stores all of an OCI layout in the repository tiny.
func (b *bed) pushLayout(t *testing.T, layout string) {
	t.Helper()
	if _, err := b.registry.LoadLayout("tiny", layout); err != nil {
		t.Fatal(err)
	}
}

// pullAs pulls ref, which has to be attached in a form of this format.
func (b *bed) pullAs(t *testing.T, ref, format string) {
	t.Helper()
	if entry := b.pull(t, ref, fallback.Lazy); entry.Format != format {
		t.Errorf("attached as %q, want %q", entry.Format, format)
	}
}

// runAndRemove runs the reference image from its attached form, which shows the
// recorded tree but for what differs, across a restart of the daemon too, and
// removes it.
func (b *bed) runAndRemove(t *testing.T, ref string, differs []treecmp.Ignore) {
	t.Helper()
	differs = slices.Concat(madeByRuntime, differs, unlikeOverlay)
	container := start(t, b.lazy, ref, "/bin/busybox", "sleep", "1000")
	expectTree(t, loadTree(t, "tiny.tree.jsonl"), treeOf(t, b.Node, container), differs...)
	if lower := lowerDirs(t, b.Node, container); len(lower) != 1 {
		t.Errorf("the container stands on %d directories, want one: %v", len(lower), lower)
	}

	b.end(t, b.referee.Kill)
	b.begin(t)
	dropCaches(t)
	expectTree(t, loadTree(t, "tiny.tree.jsonl"), treeOf(t, b.Node, container), differs...)
	again := start(t, b.lazy, ref, "/bin/busybox", "sleep", "1000")
	if out, err := again.Output(t.Context(), "/bin/busybox", "echo", "answers"); err != nil || out != "answers\n" {
		t.Errorf("container says %q, %v", out, err)
	}
	removePod(t, container)
	removePod(t, again)
	b.expectReleased(t, ref)
}

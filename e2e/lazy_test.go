package e2e_test

import (
	"path/filepath"
	"testing"

	"github.com/referee-cri/referee/e2e/node"
	"github.com/referee-cri/referee/fallback"
	"github.com/referee-cri/referee/internal/testdata"
)

// TestStockReferrer pulls an image whose overlaybd form was written and attached
// by the original converter.
func TestStockReferrer(t *testing.T) {
	t.Parallel()
	b := newBed(t, node.Options{}, "")
	dir := filepath.Join(testdata.Dir(t, "reference"), "tiny")
	if _, err := b.registry.LoadLayout("tiny", dir); err != nil {
		t.Fatal(err)
	}
	ref := b.registry.Ref("tiny", "tiny")
	b.pull(t, ref, fallback.Lazy)
	container, err := b.lazy.Run(t.Context(), "tiny", ref, "/bin/busybox", "sleep", "1000")
	if err != nil {
		t.Fatal(err)
	}
	out, err := container.Output(t.Context(), "/bin/busybox", "ls", "/")
	if err != nil {
		t.Fatal(err)
	}
	t.Log(out)
}

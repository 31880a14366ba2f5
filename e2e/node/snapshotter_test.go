package node_test

import (
	"strings"
	"testing"

	"github.com/referee-cri/referee/e2e/node"
)

// TestSnapshotter checks what must hold whatever the snapshotter is; the
// benchmarks run real ones.
func TestSnapshotter(t *testing.T) {
	t.Parallel()
	n := node.Run(t, node.Options{Snapshotter: "proxy"})
	if images, err := n.CRI().List(t.Context()); err != nil || len(images) == 0 {
		t.Errorf("a node whose snapshotter does not run yet lists %d images: %v", len(images), err)
	}
	_, err := n.StartSnapshotter(t.Context(), node.SnapshotterOptions{Binary: "/bin/sh", Config: "# none\n"})
	if err == nil || !strings.Contains(err.Error(), "start proxy") || !strings.Contains(err.Error(), "serve") {
		t.Errorf("a snapshotter that ends at once: %v; want its name and its log", err)
	}
}

func TestSnapshotterNeedsANodeForIt(t *testing.T) {
	t.Parallel()
	var n node.Node // refused before anything is done with it
	if _, err := n.StartSnapshotter(t.Context(), node.SnapshotterOptions{Binary: "/bin/false"}); err == nil {
		t.Error("a snapshotter started that containerd does not know of")
	}
}

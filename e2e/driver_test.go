package e2e_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/referee-cri/referee/e2e/node"
	"github.com/referee-cri/referee/fallback"
	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/internal/testdata"
	"github.com/referee-cri/referee/lazyblock/attach"
	"github.com/referee-cri/referee/lazyblock/attach/nbd"
)

// TestNoDriver forces a driver that this machine does not have: the node is an
// ordinary one that says why, until the configuration is mended.
func TestNoDriver(t *testing.T) {
	t.Parallel()
	if !errors.Is(nbd.Supported(), nbd.ErrUnsupported) {
		t.Skip("this kernel has nbd")
	}
	b := newBed(t, node.Options{}, "[attach]\ndriver = \"nbd\"\n")
	layout := testdata.Dir(t, "reference") + "/tiny"
	b.pushLayout(t, layout)
	ref := b.pushOriginal(t, layout)
	entry := b.pull(t, ref, fallback.Ordinary)
	if entry.Reason != reason.NotAttachable || !strings.Contains(entry.Sentence, "nbd") {
		t.Errorf("the pull was ordinary for %s: %s", entry.Reason, entry.Sentence)
	}
	container := start(t, b.lazy, ref, "/bin/busybox", "sleep", "1000")
	expectTree(t, loadTree(t, "tiny.tree.jsonl"), treeOf(t, b.Node, container), madeByRuntime...)
	removePod(t, container)
	if err := b.lazy.Remove(t.Context(), ref); err != nil {
		t.Fatal(err)
	}

	b.reconfigure(t, strings.Replace(b.text, attach.NBD, attach.Auto, 1))
	b.pull(t, ref, fallback.Lazy)
	b.expectReleased(t, ref)
}

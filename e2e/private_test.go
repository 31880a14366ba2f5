package e2e_test

import (
	"slices"
	"testing"
	"time"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/referee-cri/referee/e2e/node"
	"github.com/referee-cri/referee/fallback"
	"github.com/referee-cri/referee/internal/regtest"
)

// TestPrivateImage reads a lazy image from a registry that wants tokens, after
// they have expired, and after the daemon has forgotten the credentials.
func TestPrivateImage(t *testing.T) {
	t.Parallel()
	b := newBed(t, node.Options{}, "[reads]\ngive_up_after = \"5s\"\n")
	b.pushTiny(t)
	b.registry.SetAuth(regtest.Auth{Kind: regtest.AuthToken, Username: "kubelet", Password: "secret"})
	auth := &runtime.AuthConfig{Username: "kubelet", Password: "secret"}
	ref := b.registry.Ref("tiny", "tiny")

	if _, err := b.lazy.Pull(t.Context(), ref, nil); err == nil {
		t.Fatal("a private image was pulled without credentials")
	}
	started := time.Now()
	if _, err := b.lazy.Pull(t.Context(), ref, auth); err != nil {
		t.Fatal(err)
	}
	if entry := b.explain(t, ref, started); entry.Outcome != fallback.Lazy {
		t.Fatalf("the pull was %s: %s: %s", entry.Outcome, entry.Reason, entry.Sentence)
	}
	container := start(t, b.lazy, ref, "/bin/busybox", "sleep", "1000")
	read := func(path string) error {
		_, err := container.Output(t.Context(), "/bin/busybox", "md5sum", path)
		return err
	}

	b.registry.RevokeTokens()
	if err := read("/data/random.bin"); err != nil {
		t.Errorf("after the token expired: %v", err)
	}

	b.end(t, b.referee.Stop)
	dropCaches(t)
	b.begin(t)
	// The kubelet asks again for every container; that the image is here must not
	// keep its credentials from us.
	if _, err := b.lazy.Pull(t.Context(), ref, auth); err != nil {
		t.Fatal(err)
	}
	expectTree(t, loadTree(t, "tiny.tree.jsonl"), treeOf(t, b.Node, container), slices.Concat(madeByRuntime, stockDiffers, unlikeOverlay)...)
}

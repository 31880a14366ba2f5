package e2e_test

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/referee-cri/referee/e2e/node"
	"github.com/referee-cri/referee/fallback"
	"github.com/referee-cri/referee/internal/regtest"
	"github.com/referee-cri/referee/internal/testdata"
)

// TestStartsAreReplayed starts an image twice, from a cold cache each time: the
// second start finds here what the first had to wait for.
func TestStartsAreReplayed(t *testing.T) {
	t.Parallel()
	b := newBed(t, node.Options{}, "")
	if _, err := b.registry.LoadLayout("tiny", filepath.Join(testdata.Dir(t, "reference"), "tiny")); err != nil {
		t.Fatal(err)
	}
	ref := b.registry.Ref("tiny", "tiny")
	program := func() (said string) {
		container := start(t, b.lazy, ref, "/bin/busybox", "sleep", "1000")
		said, err := container.Output(t.Context(), "/bin/busybox", "md5sum", "/data/random.bin", "/bin/busybox")
		if err != nil {
			t.Fatal(err)
		}
		removePod(t, container)
		return said
	}

	b.pull(t, ref, fallback.Lazy)
	b.registry.ResetRequests()
	first := program()
	demanded, _ := b.blobRequests()
	if demanded == 0 {
		t.Fatal("the first start asked for nothing: there is nothing to compare with")
	}
	b.expectReleased(t, ref)

	b.pull(t, ref, fallback.Lazy)
	if text := b.run(t, "explain", ref); !strings.Contains(text, "start-up trace: ") {
		t.Fatalf("explain does not tell of the trace:\n%s", text)
	}
	b.waitReplayed(t, ref)
	b.registry.ResetRequests()
	if second := program(); second != first {
		t.Errorf("the second start reads %q, the first %q", second, first)
	}
	if requests, bytes := b.blobRequests(); requests != 0 {
		t.Errorf("%d requests for %d bytes after the replay; the first start made %d", requests, bytes, demanded)
	}
	b.expectReleased(t, ref)
}

// blobRequests counts what the registry was asked of blobs.
func (b *bed) blobRequests() (requests int, bytes int64) {
	return b.registry.Count(func(e regtest.Entry) bool { return strings.Contains(e.Path, "/blobs/") })
}

// waitReplayed returns when explain tells of a whole replay.
func (b *bed) waitReplayed(t *testing.T, ref string) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		text := b.run(t, "explain", ref)
		if strings.Contains(text, "last replayed") && !strings.Contains(text, "ended by") {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("the trace is not replayed:\n%s", text)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

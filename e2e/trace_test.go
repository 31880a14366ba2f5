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
	ref := b.pushTiny(t)
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

// TestTracesAreShared records a start on one node and attaches it to the form. A
// node that has never seen the image finds it, and its first start asks the
// registry for next to nothing: how far the kernel reads ahead varies.
func TestTracesAreShared(t *testing.T) {
	t.Parallel()
	first := newBed(t, node.Options{}, "")
	shelf := first.newShelf(t, testdata.Dir(t, "reference")+"/tiny", 6)
	program := func(b *bed, ref string) {
		container := start(t, b.lazy, ref, "/bin/busybox", "sleep", "1000")
		if r := shelf.readFile(t, container, 2); !r.right {
			t.Errorf("read %s", r.says)
		}
		removePod(t, container)
	}
	first.pull(t, shelf.ref, fallback.Lazy)
	if out, err := first.try(t, "trace", "push", shelf.ref); err == nil || !strings.Contains(err.Error(), "no start of") {
		t.Errorf("push without a recording: %v\n%s", err, out)
	}
	first.registry.ResetRequests()
	program(first, shelf.ref)
	_, demanded := first.blobRequests()
	first.expectReleased(t, shelf.ref) // the recording ends with the volume
	if out := first.run(t, "trace", "show", shelf.ref); !strings.Contains(out, " bytes at ") {
		t.Errorf("show prints:\n%s", out)
	}
	file := filepath.Join(t.TempDir(), "trace.json")
	first.run(t, "trace", "export", "-o", file, shelf.ref)
	first.run(t, "convert", "--with-trace", file, shelf.ref)

	second := newBed(t, node.Options{}, "")
	if err := second.PointHost("shared.test", node.Endpoint{URL: first.registry.URL()}); err != nil {
		t.Fatal(err)
	}
	ref := "shared.test" + shelf.ref[len(first.registry.Host()):]
	entry := second.pull(t, ref, fallback.Lazy)
	second.waitReplayed(t, ref)
	if text := second.run(t, "explain", ref); !strings.Contains(text, "another node's") {
		t.Errorf("explain does not tell where the trace of %s is from:\n%s", entry.Artifact, text)
	}
	first.registry.ResetRequests()
	program(second, ref)
	if requests, bytes := first.blobRequests(); bytes > demanded/4 {
		t.Errorf("%d requests for %d bytes after the replay; the first start asked for %d", requests, bytes, demanded)
	}
	second.expectReleased(t, ref)

	if out, err := first.try(t, "convert", "--algorithm", "lz4", "--with-trace", file, shelf.ref); err == nil || !strings.Contains(err.Error(), "it is of artifact") {
		t.Errorf("convert to another form: %v\n%s", err, out)
	}
}

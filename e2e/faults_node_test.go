package e2e_test

import (
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/referee-cri/referee/e2e/node"
	"github.com/referee-cri/referee/fallback"
	"github.com/referee-cri/referee/internal/reason"
)

// TestOtherSnapshotter pulls on a node whose containerd unpacks elsewhere.
func TestOtherSnapshotter(t *testing.T) {
	t.Parallel()
	g := newGround(t, node.Options{Config: "[plugins.'io.containerd.cri.v1.images']\n  snapshotter = \"native\"\n  use_local_image_pull = true\n"}, "")
	g.try(t, []fault{
		{"native", sound(), outcome{reason: reason.SnapshotterMismatch, says: "snapshotter.v1.native"}},
		{"native again", sound(), outcome{reason: reason.SnapshotterMismatch}},
	})
}

// TestFullCacheDisk reads through a cache that can keep next to nothing, or
// nothing at all.
func TestFullCacheDisk(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		options string // of the file system
		says    string
		times   int
	}{
		"few bytes": {"size=128k", "cache cannot keep what is read", 1},
		"no files":  {"nr_inodes=4", "reading a layer without the cache", 4},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			if err := unix.Mount("tmpfs", dir, "tmpfs", 0, tc.options); err != nil {
				t.Skipf("mount a small tmpfs: %v", err)
			}
			t.Cleanup(func() {
				if err := unix.Unmount(dir, 0); err != nil {
					t.Errorf("unmount cache disk: %v", err)
				}
			})
			c := newGround(t, node.Options{}, "[cache]\ndir = \""+dir+"\"\n").newTrial(t)
			c.attach(t, c.stock(t))
			if _, err := c.lazy.Pull(t.Context(), c.ref, nil); err != nil {
				t.Fatal(err)
			}
			if entry := c.explain(t, c.ref, time.Time{}); entry.Outcome != fallback.Lazy {
				t.Fatalf("pull was %s (%s: %s), want it lazy", entry.Outcome, entry.Reason, entry.Sentence)
			}
			container := c.run(t, c.ref)
			c.expectFetching(t, container, "/data/random.bin")
			c.expectSums(t, container, sample...)
			if told := strings.Count(c.referee.Log(), tc.says); told != tc.times {
				t.Errorf("the log says %q %d times, want %d", tc.says, told, tc.times)
			}
			c.release(t, container)
		})
	}
}

// TestContainerdComesLater starts Referee on a node where containerd is not up
// yet.
func TestContainerdComesLater(t *testing.T) {
	t.Parallel()
	b := newBed(t, node.Options{}, "")
	ref := b.pushTiny(t)
	b.end(t, b.referee.Stop)
	b.end(t, b.Kill)
	started := make(chan error, 1)
	go func() { started <- b.referee.Start(t.Context()) }() // returns when calls are answered; received below
	socket := filepath.Join(b.Dir(), "referee", "cri.sock")
	deadline := time.Now().Add(10 * time.Second)
	for {
		conn, err := new(net.Dialer).DialContext(t.Context(), "unix", socket)
		if err == nil {
			_ = conn.Close()
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("Referee does not listen without containerd: %v", err)
		}
	}
	for name, call := range map[string]func() error{
		"ListImages": func() error { _, err := b.lazy.List(t.Context()); return err },
		"PullImage":  func() error { _, err := b.lazy.Pull(t.Context(), ref, nil); return err },
	} {
		begin := time.Now()
		if err := call(); status.Code(err) != codes.Unavailable {
			t.Errorf("%s without containerd: %v, want Unavailable", name, err)
		}
		if took := time.Since(begin); took > 3*time.Second {
			t.Errorf("%s without containerd took %s", name, took)
		}
	}
	if err := b.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	b.pull(t, ref, fallback.Lazy)
	container := start(t, b.lazy, ref, "/bin/busybox", "sleep", "1000")
	if out, err := container.Output(t.Context(), "/bin/busybox", "cat", "/wh/file-stays.txt"); err != nil || len(out) != 6 {
		t.Errorf("container says %q, %v", out, err)
	}
}

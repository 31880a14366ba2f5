package e2e_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/referee-cri/referee/e2e/node"
	"github.com/referee-cri/referee/fallback"
	"github.com/referee-cri/referee/internal/eventually"
	"github.com/referee-cri/referee/internal/regtest"
)

// TestRestart creates containers of a lazy image after the daemon was restarted,
// after it was killed, and after a reboot.
func TestRestart(t *testing.T) {
	t.Parallel()
	for _, version := range versions {
		t.Run("containerd "+version, func(t *testing.T) {
			t.Parallel()
			b := newBed(t, node.Options{Containerd: version}, "")
			ref := b.pushTiny(t)
			b.pull(t, ref, fallback.Lazy)
			for _, step := range []struct {
				name string
				do   func(*testing.T, *bed)
			}{
				{"SIGTERM and start", func(t *testing.T, b *bed) { t.Helper(); b.end(t, b.referee.Stop) }},
				{"SIGKILL and start", func(t *testing.T, b *bed) { t.Helper(); b.end(t, b.referee.Kill) }},
				{"reboot", reboot},
			} {
				t.Run(step.name, func(t *testing.T) {
					step.do(t, b)
					b.begin(t)
					container := start(t, b.lazy, ref, "/bin/busybox", "sleep", "1000")
					expectTree(t, loadTree(t, "tiny.tree.jsonl"), treeOf(t, b.Node, container),
						slices.Concat(madeByRuntime, stockDiffers, unlikeOverlay)...)
					removePod(t, container)
				})
			}
			b.expectReleased(t, ref)
		})
	}
}

func (b *bed) end(t *testing.T, how func() error) {
	t.Helper()
	if err := how(); err != nil {
		t.Fatal(err)
	}
}

// begin starts the daemon again. A registry that does not answer must not keep it.
func (b *bed) begin(t *testing.T) {
	t.Helper()
	if err := b.referee.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// reconfigure restarts the daemon with another configuration.
func (b *bed) reconfigure(t *testing.T, text string) {
	t.Helper()
	b.end(t, b.referee.Stop)
	b.referee.Reconfigure(text)
	b.begin(t)
}

// reboot cycles the power. A container created before the daemon is back must
// fail, not find an empty root.
func reboot(t *testing.T, b *bed) {
	t.Helper()
	b.cyclePower(t)
	ref := b.registry.Ref("tiny", "tiny")
	container, err := b.CRI().Run(t.Context(), "too-early", ref, "/bin/busybox", "true")
	if err == nil {
		removePod(t, container)
		t.Fatal("a container was created while its root dangled")
	}
	if !strings.Contains(err.Error(), "no such file or directory") {
		t.Errorf("creation fails with %v, want a dangling root", err)
	}
}

// cyclePower ends everything, takes away what does not survive that (processes,
// mounts, the state directories) and starts containerd again.
func (b *bed) cyclePower(t *testing.T) {
	t.Helper()
	b.end(t, b.referee.Kill)
	b.end(t, b.Kill)
	b.killContainers(t)
	unmountBelow(t, b.Dir())
	for _, dir := range []string{b.State(), filepath.Join(b.Dir(), "referee-state"), filepath.Join(b.Dir(), "referee")} {
		// Shims see that their containers have ended, and write that down.
		eventually.True(t, "remove "+dir, func() bool { return os.RemoveAll(dir) == nil })
	}
	if err := b.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// killContainers ends what runs in containers, and takes away what runc keeps of
// them outside the node's folder.
func (b *bed) killContainers(t *testing.T) {
	t.Helper()
	bundles, err := filepath.Glob(filepath.Join(b.State(), "io.containerd.runtime.v2.task", "k8s.io", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, bundle := range bundles {
		id := filepath.Base(bundle)
		text, err := os.ReadFile(filepath.Join(bundle, "init.pid"))
		if err != nil {
			t.Fatal(err)
		}
		pid, err := strconv.Atoi(string(text))
		if err != nil || pid < 2 {
			t.Fatalf("container %s has process %q: %v", id, text, err)
		}
		if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			t.Error(err)
		}
		b.awaitEnd(t, pid)
		for _, pattern := range []string{"/sys/fs/cgroup/*/k8s.io/" + id, "/sys/fs/cgroup/k8s.io/" + id} {
			groups, err := filepath.Glob(pattern)
			if err != nil {
				t.Fatal(err)
			}
			for _, group := range groups {
				if err := os.Remove(group); err != nil {
					t.Error(err)
				}
			}
		}
		if err := os.RemoveAll("/run/containerd/runc/k8s.io/" + id); err != nil {
			t.Error(err)
		}
	}
}

// awaitEnd waits until a killed process is gone.
func (*bed) awaitEnd(t *testing.T, pid int) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); unix.Kill(pid, 0) == nil; {
		if time.Now().After(deadline) {
			t.Fatalf("process %d survives SIGKILL", pid)
		}
		select {
		case <-t.Context().Done():
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func unmountBelow(t *testing.T, dir string) {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	lines := slices.Collect(strings.Lines(string(mounts)))
	for _, line := range slices.Backward(lines) {
		target := strings.Fields(line)[4]
		if strings.HasPrefix(target, dir+"/") {
			if err := unix.Unmount(target, unix.MNT_DETACH); err != nil && err != unix.EINVAL {
				t.Errorf("unmount %s: %v", target, err)
			}
		}
	}
}

// TestContainerdRestart restarts containerd under a running daemon.
func TestContainerdRestart(t *testing.T) {
	t.Parallel()
	b := newBed(t, node.Options{}, "")
	ref := b.pushTiny(t)
	b.pull(t, ref, fallback.Lazy)
	if err := b.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(time.Second)
	for {
		if _, err := b.lazy.List(t.Context()); err == nil {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("a second after containerd is back: %v", err)
		}
	}
	container := start(t, b.lazy, ref, "/bin/busybox", "sleep", "1000")
	if _, err := container.Output(t.Context(), "/bin/busybox", "ls", "/data"); err != nil {
		t.Error(err)
	}
}

// TestRestartWithoutRegistry starts the daemon again while the registry hangs:
// it serves soon, and what was read before is still there.
func TestRestartWithoutRegistry(t *testing.T) {
	t.Parallel()
	b := newBed(t, node.Options{}, "")
	ref := b.pushTiny(t)
	b.pull(t, ref, fallback.Lazy)
	container := start(t, b.lazy, ref, "/bin/busybox", "sleep", "1000")
	if _, err := container.Output(t.Context(), "/bin/busybox", "md5sum", "/data/random.bin"); err != nil {
		t.Fatal(err)
	}
	b.end(t, b.referee.Stop)
	answers := b.registry.Inject(regtest.Fault{Hang: true})
	defer answers()
	dropCaches(t)
	started := time.Now()
	b.begin(t)
	if took := time.Since(started); took > 20*time.Second {
		t.Errorf("the daemon served %v after its start", took)
	}
	if _, err := container.Output(t.Context(), "/bin/busybox", "md5sum", "/data/random.bin"); err != nil {
		t.Errorf("what was read before the restart: %v", err)
	}
}

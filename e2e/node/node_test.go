package node_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/referee-cri/referee/e2e/node"
	"github.com/referee-cri/referee/internal/regtest"
)

func TestNode(t *testing.T) {
	t.Parallel()
	for _, version := range []string{node.Containerd, node.ContainerdOld} {
		t.Run("runs containers with containerd "+version, func(t *testing.T) {
			t.Parallel()
			n := node.Run(t, node.Options{Containerd: version})
			registry := regtest.New(t, regtest.Options{})
			pullRunRemove(t, n, pushPause(t, registry))
			pullThroughMirror(t, n, registry)
			surviveRestarts(t, n)
			leavesNothing(t, n)
		})
	}
}

func pushPause(t *testing.T, registry *regtest.Registry) string {
	t.Helper()
	dir := t.TempDir()
	if err := node.PauseLayout(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	if _, err := registry.LoadLayout("pause", dir); err != nil {
		t.Fatal(err)
	}
	return registry.Ref("pause", "1")
}

func pullRunRemove(t *testing.T, n *node.Node, ref string) {
	t.Helper()
	ctx := t.Context()
	cri := n.CRI()
	id, err := cri.Pull(ctx, ref, nil)
	if err != nil {
		t.Fatal(err)
	}
	img, err := cri.ImageStatus(ctx, ref)
	if err != nil || img.GetId() != id {
		t.Fatalf("ImageStatus(%s) = %v, %v; want id %s", ref, img, err, id)
	}
	container, err := cri.Run(ctx, "works", ref)
	if err != nil {
		t.Fatal(err)
	}
	res, err := container.Exec(ctx, "/pause", "say", "hello")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(node.ExecResult{Stdout: "hello\n"}, res); diff != "" {
		t.Errorf("exec (-want +got):\n%s", diff)
	}
	if err := container.WaitLog(ctx, "pausing"); err != nil {
		t.Error(err)
	}
	if len(node.Leaks(n.Dir())) == 0 {
		t.Error("Leaks sees nothing of a running container")
	}
	if err := container.Pod().Remove(ctx); err != nil {
		t.Error(err)
	}
	if err := cri.Remove(ctx, ref); err != nil {
		t.Error(err)
	}
	if img, err := cri.ImageStatus(ctx, ref); err != nil || img != nil {
		t.Errorf("after removal ImageStatus = %v, %v", img, err)
	}
}

func pullThroughMirror(t *testing.T, n *node.Node, registry *regtest.Registry) {
	t.Helper()
	if err := n.PointHost("mirrored.test", node.Endpoint{URL: registry.URL()}); err != nil {
		t.Fatal(err)
	}
	if _, err := n.CRI().Pull(t.Context(), "mirrored.test/pause:1", nil); err != nil {
		t.Error(err)
	}
}

func surviveRestarts(t *testing.T, n *node.Node) {
	t.Helper()
	ctx := t.Context()
	container, err := n.CRI().Run(ctx, "survives", "mirrored.test/pause:1")
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	if err := n.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := n.Resume(ctx); err != nil {
		t.Fatal(err)
	}
	again := n.CRI().Container(container.ID)
	if out, err := again.Output(ctx, "/pause", "say", "still here"); err != nil || out != "still here\n" {
		t.Errorf("exec after restarts = %q, %v", out, err)
	}
}

// leavesNothing stops the node while a container runs.
func leavesNothing(t *testing.T, n *node.Node) {
	t.Helper()
	if err := n.Stop(); err != nil {
		t.Error(err)
	}
	if left := node.Leaks(n.Dir()); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if _, err := os.Stat(n.Dir()); !os.IsNotExist(err) {
		t.Errorf("node folder after Stop: %v", err)
	}
}

// envCrash makes TestCrashHelper act as the owner that dies.
const envCrash = "REFEREE_E2E_CRASH_BASE"

func TestCrashHelper(t *testing.T) { //nolint:paralleltest // the whole process dies
	base := os.Getenv(envCrash)
	if base == "" {
		return // runs only as the child of TestSweepAfterCrash
	}
	n, err := node.Start(t.Context(), node.Options{Base: base})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.CRI().RunPod(t.Context(), "orphan"); err != nil {
		t.Fatal(err)
	}
	_ = os.WriteFile(filepath.Join(base, "ready"), []byte(n.Dir()), 0o600)
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
}

func TestSweepAfterCrash(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("a node needs root")
	}
	base, err := os.MkdirTemp("/var/tmp", "sweep") //nolint:usetesting // a socket path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(base) })
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	child := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestCrashHelper$")
	child.Env = append(os.Environ(), envCrash+"="+base)
	out, _ := child.CombinedOutput() // dies by its own hand
	dir, err := os.ReadFile(filepath.Join(base, "ready"))
	if err != nil {
		t.Fatalf("child made no node: %v\n%s", err, out)
	}
	if left := node.Leaks(string(dir)); !strings.Contains(strings.Join(left, "\n"), "containerd-shim") {
		t.Fatalf("child left no shim: %v", left)
	}
	if err := node.Sweep(base); err != nil {
		t.Fatal(err)
	}
	if left := node.Leaks(string(dir)); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestSweepSparesTheLiving(t *testing.T) {
	t.Parallel()
	n := node.Run(t, node.Options{})
	if err := node.Sweep(filepath.Dir(n.Dir())); err != nil {
		t.Fatal(err)
	}
	if _, err := n.CRI().List(t.Context()); err != nil {
		t.Errorf("node after sweep: %v", err)
	}
}

package e2e_test

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/referee-cri/referee/e2e/node"
	"github.com/referee-cri/referee/fallback"
)

// TestInstall puts Referee into a tree, runs what the tree's unit says, pulls
// lazily, leaves, and has containers of the same image created without it.
func TestInstall(t *testing.T) {
	t.Parallel()
	s := newScene(t, node.Options{}, "")
	ref, _ := s.push(t, "app", "one", s.stack(t, "one"))
	s.convert(t, ref, "app")
	root := s.newTree(t)
	kubelet := filepath.Join(root, "var/lib/kubelet/config.yaml")
	before := readText(t, kubelet)

	dry := s.command.run(t, "install", "--root", root, "--no-start", "--dry-run")
	said := s.command.run(t, "install", "--root", root, "--no-start")
	if dry != said || !strings.Contains(said, "+imageServiceEndpoint: unix://"+filepath.Join(s.Dir(), "referee", "cri.sock")+"\n") {
		t.Errorf("a dry run says\n%s\nthe real one\n%s", dry, said)
	}
	if again := s.command.run(t, "install", "--root", root, "--no-start"); !strings.HasPrefix(again, "nothing to do") {
		t.Errorf("a second run says\n%s", again)
	}
	s.end(t, s.referee.Stop)
	s.runUnit(t, root)

	s.pull(t, ref, fallback.Lazy)
	running := start(t, s.lazy, ref, "/bin/busybox", "sleep", "1000")
	s.expectHealthy(t, ref)

	installed := readText(t, kubelet)
	if out, err := s.command.try(t, "uninstall", "--root", root, "--no-start"); err == nil || !strings.Contains(err.Error(), "begun from "+ref) {
		t.Errorf("uninstalling under a running container: %v\n%s", err, out)
	}
	if s.status(t).Draining || readText(t, kubelet) != installed {
		t.Error("an uninstall that was refused changed something")
	}
	removePod(t, running)
	said = s.command.run(t, "uninstall", "--root", root, "--no-start")
	if !strings.Contains(said, "-imageServiceEndpoint: ") || readText(t, kubelet) != before {
		t.Errorf("uninstalling says\n%s\nthe kubelet's configuration:\n%s", said, readText(t, kubelet))
	}
	s.cyclePower(t)
	s.expectReadsOwn(t, s.CRI(), ref, "one")

	s.bindInto(t, root)
	s.command.run(t, "uninstall", "--root", root, "--no-start", "--purge")
	for _, gone := range []string{
		filepath.Join(root, "usr"), filepath.Join(root, "etc/systemd"), filepath.Join(root, "var/lib/referee"), filepath.Join(s.Dir(), "referee-root"),
	} {
		if _, err := os.Lstat(gone); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is left: %v", gone, err)
		}
	}
}

// newTree is a node's file system with a kubelet and the daemon's configuration,
// in which the paths of that configuration are those of this machine.
func (b *bed) newTree(t *testing.T) string {
	t.Helper()
	root := filepath.Join(b.Dir(), "tree")
	for name, text := range map[string]string{
		"etc/referee/config.toml":     b.text,
		"var/lib/kubelet/config.yaml": "apiVersion: kubelet.config.k8s.io/v1beta1\n# of this node\nkind: KubeletConfiguration\ncontainerRuntimeEndpoint: unix://" + b.Socket() + "\n",
	} {
		path := filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil { //nolint:gosec // as on a node
			t.Fatal(err)
		}
	}
	b.bindInto(t, root)
	return root
}

// bindInto has the node's folder seen at its own path below root.
func (b *bed) bindInto(t *testing.T, root string) {
	t.Helper()
	same := filepath.Join(root, b.Dir())
	err := os.MkdirAll(same, 0o755) //nolint:gosec // as on a node
	if err == nil {
		err = unix.Mount(b.Dir(), same, "", unix.MS_BIND, "")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(same, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) { // went with a power cut
			t.Error(err)
		}
	})
	if err := unix.Mount("", same, "", unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
}

// runUnit runs what ExecStart= of the installed unit says, below root.
func (b *bed) runUnit(t *testing.T, root string) {
	t.Helper()
	unit := readText(t, filepath.Join(root, "etc/systemd/system/multi-user.target.wants/referee.service"), root)
	_, line, _ := strings.Cut(unit, "\nExecStart=")
	line, _, _ = strings.Cut(line, "\n")
	words := strings.Fields(line)
	if len(words) != 4 || words[1] != "serve" || words[2] != "--config" {
		t.Fatalf("the unit starts %q", line)
	}
	b.referee.Upgrade(filepath.Join(root, words[0]))
	b.referee.Reconfigure(readText(t, filepath.Join(root, words[3])))
	b.begin(t)
}

// readText reads a file; a link is followed below root.
func readText(t *testing.T, path string, root ...string) string {
	t.Helper()
	if target, err := os.Readlink(path); err == nil {
		path = filepath.Join(append(root, target)...)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// expectHealthy has the doctor look at a node that serves ref lazily.
func (b *bed) expectHealthy(t *testing.T, ref string) {
	t.Helper()
	out, err := b.command.try(t, "doctor", ref, "--output", "json")
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 2) { // this machine's clock, and it has no kubelet
		t.Errorf("the doctor: %v", err)
	}
	var report struct {
		Findings []struct{ Check, Level, Found string }
	}
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		t.Fatalf("the doctor says %v\n%s", err, out)
	}
	healthy := map[string]string{
		"configuration": "policy", "attach driver": "fuse works", "file systems": "EROFS mounts from a file", "containerd": "containerd " + b.Version(),
		"pull path": "", "snapshotter": "overlayfs", "mounts": "containerd and the daemon share", "cri socket": "answers",
		"daemon": "1 volume", "keeper": "holds", "registry hosts": "", "registry clock": "agree", "image": "lazy, as overlaybd",
	}
	for _, f := range report.Findings {
		if says, is := healthy[f.Check]; is && f.Level == "good" && strings.Contains(f.Found, says) {
			delete(healthy, f.Check)
		}
	}
	if len(healthy) > 0 {
		t.Errorf("the doctor does not find %v\n%s", healthy, out)
	}
}

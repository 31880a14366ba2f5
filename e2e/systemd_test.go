package e2e_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/referee-cri/referee/e2e/images"
	"github.com/referee-cri/referee/e2e/node"
	"github.com/referee-cri/referee/e2e/tools"
)

// systemdTimeout bounds the life of the booted system. Mostly it takes half a minute.
const systemdTimeout = 5 * time.Minute

// fakeKubelet starts as a kubelet does: with its configuration read once.
const fakeKubelet = `[Unit]
After=referee.service
[Service]
ExecStart=/bin/sh -c 'grep -q imageServiceEndpoint /var/lib/kubelet/config.yaml && echo through-referee >>/root/kubelet || echo ordinary >>/root/kubelet; exec sleep infinity'
[Install]
WantedBy=multi-user.target
`

// containerdUnit runs the tests' containerd, as its own unit does.
const containerdUnit = `[Service]
Type=notify
ExecStart=/opt/containerd/containerd
Environment=PATH=/opt/containerd:/usr/sbin:/usr/bin:/sbin:/bin
Delegate=yes
KillMode=process
[Install]
WantedBy=multi-user.target
`

// insideSystemd is what an operator would type, and what is then to be seen. Each
// line that begins with "== " names what follows.
const insideSystemd = `#!/bin/sh
state() { echo "== $1: $(systemctl is-active referee.socket referee.service kubelet.service | tr '\n' ' ')"; }
cd /root
systemctl start containerd.service kubelet.service
cp -a /etc /var/lib/kubelet /root/before 2>/dev/null || { mkdir before && cp -a /etc /var/lib/kubelet before; }
./referee install
echo "== install: $?"
state installed
systemctl show --property=Type,KillMode,NRestarts referee.service | sort
stat --format '== socket: %F %a' /run/referee/cri.sock
/usr/local/bin/referee status >/dev/null && echo "== status: answers"
/usr/local/bin/referee doctor | grep -E '^(good|degraded|bad) +(kubelet|containerd|snapshotter|mounts|daemon|cri socket) '
echo "== kubelet: $(tail -n 1 kubelet)"
./referee install
state again

systemctl kill --signal=KILL --kill-whom=main referee.service
until [ "$(systemctl show --property=NRestarts --value referee.service)" = 1 ] && systemctl -q is-active referee.service; do sleep 0.2; done
state killed

cp referee broken && echo >>broken
mkdir -p /etc/systemd/system/referee.service.d
printf '[Service]\nExecStartPre=/bin/false\n' >/etc/systemd/system/referee.service.d/broken.conf
./broken install
echo "== broken: $?"
cmp referee /usr/local/bin/referee && echo "== broken: undone"
rm -r /etc/systemd/system/referee.service.d
systemctl daemon-reload
systemctl reset-failed referee.service
systemctl restart referee.service
state repaired

/usr/local/bin/referee uninstall --purge
echo "== uninstall: $?"
state uninstalled
echo "== kubelet: $(tail -n 1 kubelet)"
mkdir after && cp -a /etc /var/lib/kubelet after
diff -r --no-dereference before after && echo "== left: nothing changed"
ls -d /usr/local/bin/referee /var/lib/referee /run/referee /etc/referee 2>/dev/null
ls /etc/systemd/system /etc/systemd/system/*.wants | grep referee
pgrep -a referee
echo "== end"
`

// runner runs the script once the system is up, and ends the system.
const runner = `[Unit]
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'sh /root/script >/root/results 2>&1; systemctl poweroff'
[Install]
WantedBy=default.target
`

// TestSystemd installs, upgrades and leaves under a real systemd.
func TestSystemd(t *testing.T) {
	t.Parallel()
	nspawn, err := exec.LookPath("systemd-nspawn")
	if err != nil {
		t.Skipf("no systemd-nspawn to boot a system with: %v", err)
	}
	if os.Geteuid() != 0 {
		t.Skip("booting a system needs root")
	}
	root := bootable(t)
	binary, err := tools.Referee(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	for path, text := range map[string]string{
		"root/referee": string(program), "root/script": insideSystemd,
		"etc/systemd/system/kubelet.service": fakeKubelet, "etc/systemd/system/containerd.service": containerdUnit,
		"etc/systemd/system/test.service": runner,
		"var/lib/kubelet/config.yaml":     "kind: KubeletConfiguration # mine\n",
	} {
		full := filepath.Join(root, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(full), 0o755), os.WriteFile(full, []byte(text), 0o755)); err != nil { //nolint:gosec // as on a node
			t.Fatal(err)
		}
	}
	wants := filepath.Join(root, "etc/systemd/system/multi-user.target.wants")
	if err := errors.Join(os.MkdirAll(wants, 0o755), os.Symlink("/etc/systemd/system/test.service", filepath.Join(wants, "test.service"))); err != nil { //nolint:gosec // as on a node
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), systemdTimeout)
	defer cancel()
	containerd, err := tools.Containerd(ctx, node.Containerd)
	if err != nil {
		t.Fatal(err)
	}
	// Its snapshots cannot be overlays on an overlay.
	snapshots := t.TempDir()
	console, err := exec.CommandContext(ctx, nspawn, "--bind-ro="+containerd+":/opt/containerd", "--bind="+snapshots+":/var/lib/containerd", "--quiet", "--register=no", "--keep-unit", "--private-network", "--bind=/dev/fuse", "--directory="+root, "--boot").CombinedOutput()
	results, rerr := os.ReadFile(filepath.Join(root, "root/results"))
	if rerr != nil {
		t.Fatalf("the system gave no results: %v, %v\n%s", err, rerr, console)
	}
	expectLines(t, string(results),
		"== install: 0",
		"== installed: active active active ",
		"KillMode=process", "NRestarts=0", "Type=notify",
		"== socket: socket 660",
		"== status: answers",
		"good +containerd +containerd "+node.Containerd,
		"good +snapshotter", "good +mounts +containerd and the daemon share",
		"good +kubelet +/var/lib/kubelet/config.yaml sends it to unix:///run/referee/cri.sock",
		"good +cri socket +/run/referee/cri.sock answers",
		"good +daemon +version .* runs, driver .*, 0 volumes",
		"== kubelet: through-referee",
		"nothing to do: this node has all of it",
		"== again: active active active ",
		"== killed: active active active ",
		"== broken: 1",
		"== broken: undone",
		"== repaired: active active active ",
		"== uninstall: 0",
		"== uninstalled: inactive inactive active ",
		"== kubelet: ordinary",
		"== left: nothing changed",
		"== end",
	)
	if t.Failed() {
		t.Logf("results:\n%s\nconsole:\n%s", results, console)
	}
}

// bootable is a system with systemd, whose changes are its own.
func bootable(t *testing.T) string {
	t.Helper()
	lower, err := images.Tree(t.Context(), "systemd", "systemd-sysv", "dbus", "procps", "diffutils")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	root, upper, work := filepath.Join(dir, "root"), filepath.Join(dir, "upper"), filepath.Join(dir, "work")
	for _, d := range []string{root, upper, work} {
		if err := os.Mkdir(d, 0o755); err != nil { //nolint:gosec // the root of a system
			t.Fatal(err)
		}
	}
	if err := unix.Mount("overlay", root, "overlay", 0, "lowerdir="+lower+",upperdir="+upper+",workdir="+work); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(root, 0); err != nil {
			t.Error(err)
		}
	})
	return root
}

// expectLines wants lines that match the expressions, in their order, and nothing
// between the last two.
func expectLines(t *testing.T, text string, want ...string) {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(text), "\n")
	at := 0
	for i, expression := range want {
		matches := regexp.MustCompile("^" + expression)
		from := at
		for at < len(lines) && !matches.MatchString(lines[at]) {
			at++
		}
		if at == len(lines) {
			t.Errorf("there is no line %q after line %d", expression, from)
			at = from
			continue
		}
		if i == len(want)-1 && at != from {
			t.Errorf("before the end it says %q", lines[from:at])
		}
		at++
	}
}

package install_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/referee-cri/referee/configs"
	"github.com/referee-cri/referee/internal/install"
)

// scratch is a node's file system below a directory.
type scratch struct{ root string }

// newScratch makes the files named; a name that ends in a slash is a directory,
// a text that begins with "-> " a link.
func newScratch(t *testing.T, files map[string]string) scratch {
	t.Helper()
	s := scratch{t.TempDir()}
	for path, text := range files {
		s.place(t, path, text)
	}
	return s
}

func (s scratch) place(t *testing.T, path, text string) {
	t.Helper()
	full := filepath.Join(s.root, path)
	err := os.MkdirAll(filepath.Dir(full), 0o755) //nolint:gosec // as on a node
	switch target, isLink := strings.CutPrefix(text, "-> "); {
	case err != nil:
	case strings.HasSuffix(path, "/"):
		err = os.MkdirAll(full, 0o755) //nolint:gosec // as on a node
	case isLink:
		err = os.Symlink(target, full)
	default:
		err = os.WriteFile(full, []byte(text), 0o640) //nolint:gosec // a mode that is not the usual one
	}
	if err != nil {
		t.Fatal(err)
	}
}

func (s scratch) read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(s.root, path))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// tree describes everything: mode and text, or where a link points.
func (s scratch) tree(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(s.root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || path == s.root {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(path, s.root)
		all[name] = info.Mode().String()
		switch entry.Type() {
		case fs.ModeSymlink:
			target, err := os.Readlink(path)
			all[name] = "-> " + target
			return err
		case 0:
			text, err := os.ReadFile(path)
			all[name] += " " + string(text)
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func (s scratch) options() install.Options {
	return install.Options{Root: s.root, Binary: []byte("\x7fELF\x00"), Version: "v1", Kubelet: true, Crictl: true}
}

func (s scratch) plan(t *testing.T) *install.Plan {
	t.Helper()
	plan, err := install.NewPlan(s.options())
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

func (s scratch) install(t *testing.T) *install.Plan {
	t.Helper()
	plan := s.plan(t)
	if err := plan.Apply(t.Context(), install.Idle{}); err != nil {
		t.Fatal(err)
	}
	return plan
}

func (s scratch) uninstall(t *testing.T) *install.Leave {
	t.Helper()
	leave, err := install.NewLeave(s.root)
	if err == nil {
		err = leave.Apply(t.Context(), install.Idle{})
	}
	if err != nil {
		t.Fatal(err)
	}
	return leave
}

const endpoint = "unix:///run/referee/cri.sock"

// kubeadm is what kubeadm and its packages leave on a node.
const (
	kubeadmUnit = `[Service]
Environment="KUBELET_CONFIG_ARGS=--config=/var/lib/kubelet/config.yaml"
EnvironmentFile=-/var/lib/kubelet/kubeadm-flags.env
EnvironmentFile=-/etc/default/kubelet
ExecStart=
ExecStart=/usr/bin/kubelet $KUBELET_KUBECONFIG_ARGS $KUBELET_CONFIG_ARGS $KUBELET_KUBEADM_ARGS $KUBELET_EXTRA_ARGS
`
	kubeadmConfig = `apiVersion: kubelet.config.k8s.io/v1beta1
# Written by hand, and to be kept.
authentication:
  anonymous:
    enabled: false

clusterDNS:
- 10.96.0.10
containerRuntimeEndpoint: ""   # by flag
kind: KubeletConfiguration
shutdownGracePeriod: 0s
`
	kubeadmEnv = `KUBELET_KUBEADM_ARGS="--container-runtime-endpoint=unix:///run/cri/containerd.sock --pod-infra-container-image=registry.k8s.io/pause:3.10"
`
)

func kubeadm(more map[string]string) map[string]string {
	files := map[string]string{
		"/usr/lib/systemd/system/kubelet.service":                   "[Service]\nExecStart=/usr/bin/kubelet\n",
		"/usr/lib/systemd/system/kubelet.service.d/10-kubeadm.conf": kubeadmUnit,
		"/var/lib/kubelet/config.yaml":                              kubeadmConfig,
		"/var/lib/kubelet/kubeadm-flags.env":                        kubeadmEnv,
	}
	for path, text := range more {
		files[path] = text
	}
	return files
}

// Each layout of a kubelet, where its endpoint is put, and the way back.
func TestKubeletLayouts(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		files map[string]string
		file  string // that then names the endpoint
		want  string // all of it; "": only that it names the endpoint
		note  string
	}{
		"kubeadm's": {
			files: kubeadm(nil), file: "/var/lib/kubelet/config.yaml",
			want: kubeadmConfig + "imageServiceEndpoint: " + endpoint + "\n",
		},
		"kubeadm's, images elsewhere": {
			files: kubeadm(map[string]string{"/var/lib/kubelet/config.yaml": "imageServiceEndpoint: \"unix:///old.sock\" # why\nkind: KubeletConfiguration"}),
			file:  "/var/lib/kubelet/config.yaml",
			want:  "imageServiceEndpoint: " + endpoint + " # why\nkind: KubeletConfiguration",
		},
		"kubeadm's, the key without a value": {
			files: kubeadm(map[string]string{"/var/lib/kubelet/config.yaml": "imageServiceEndpoint:\nkind: KubeletConfiguration\n"}),
			file:  "/var/lib/kubelet/config.yaml",
			want:  "imageServiceEndpoint: " + endpoint + "\nkind: KubeletConfiguration\n",
		},
		"kubeadm's, configuration behind a link": {
			files: kubeadm(map[string]string{"/var/lib/kubelet/config.yaml": "-> /etc/kubelet.yaml", "/etc/kubelet.yaml": kubeadmConfig}),
			file:  "/etc/kubelet.yaml", want: kubeadmConfig + "imageServiceEndpoint: " + endpoint + "\n",
		},
		"a directory of drop-ins": {
			files: kubeadm(map[string]string{"/etc/default/kubelet": "KUBELET_EXTRA_ARGS=--config-dir=/etc/kubernetes/kubelet.conf.d\n"}),
			file:  "/etc/kubernetes/kubelet.conf.d/50-referee.conf",
		},
		"the flag in the operator's arguments": {
			files: kubeadm(map[string]string{"/etc/default/kubelet": "KUBELET_EXTRA_ARGS=\"--v=2 --image-service-endpoint=unix:///old.sock\"\n"}),
			file:  "/etc/default/kubelet", want: "KUBELET_EXTRA_ARGS=\"--v=2 --image-service-endpoint=" + endpoint + "\"\n",
		},
		"flags alone, with arguments of the operator": {
			files: map[string]string{
				"/lib/systemd/system/kubelet.service": "[Service]\nExecStart=/usr/bin/kubelet $KUBELET_EXTRA_ARGS\n",
				"/etc/default/kubelet":                "# mine\nKUBELET_EXTRA_ARGS=--v=2\n",
			},
			file: "/etc/default/kubelet", want: "# mine\nKUBELET_EXTRA_ARGS=\"--v=2 --image-service-endpoint=" + endpoint + "\"\n",
		},
		"flags alone, none of the operator": {
			files: map[string]string{"/lib/systemd/system/kubelet.service": "[Service]\nExecStart=/usr/bin/kubelet $KUBELET_EXTRA_ARGS\n", "/etc/sysconfig/": ""},
			file:  "/etc/sysconfig/kubelet", want: "KUBELET_EXTRA_ARGS=--image-service-endpoint=" + endpoint + "\n",
		},
		"flags in a unit of the operator": {
			files: map[string]string{"/etc/systemd/system/kubelet.service": "[Service]\nExecStart=/opt/kubelet \\\n  --config=/etc/k.yaml \\\n  --image-service-endpoint /run/old.sock\n"},
			file:  "/etc/systemd/system/kubelet.service",
			want:  "[Service]\nExecStart=/opt/kubelet \\\n  --config=/etc/k.yaml \\\n  --image-service-endpoint " + endpoint + "\n",
		},
		"a configuration named by a flag": {
			files: map[string]string{"/etc/systemd/system/kubelet.service": "[Service]\nExecStart=/opt/kubelet --config /etc/k.yaml\n", "/etc/k.yaml": "kind: KubeletConfiguration\n"},
			file:  "/etc/k.yaml", want: "kind: KubeletConfiguration\nimageServiceEndpoint: " + endpoint + "\n",
		},
		"no way to tell it": {
			files: map[string]string{"/etc/systemd/system/kubelet.service": "[Service]\nExecStart=/opt/kubelet\n"},
			note:  "start it with --image-service-endpoint=" + endpoint,
		},
		"no kubelet": {note: "there is no kubelet here"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScratch(t, tc.files)
			fresh := s.tree(t)
			plan := s.install(t)
			if notes := strings.Join(plan.Notes, "\n"); !strings.Contains(notes, tc.note) || tc.note == "" && notes != "" {
				t.Errorf("it notes %q, want %q", notes, tc.note)
			}
			if tc.file != "" {
				got := s.read(t, tc.file)
				if tc.want != "" && got != tc.want {
					t.Errorf("%s:\n%s", tc.file, cmp.Diff(tc.want, got))
				}
				if k, err := install.FindKubelet(s.root); err != nil || k.ImageEndpoint != endpoint || k.EndpointFile != tc.file && !strings.Contains(name, "link") {
					t.Errorf("the kubelet found afterwards: %+v, %v", k, err)
				}
			}
			once := s.tree(t)
			if again := s.install(t); len(again.Changes) != 0 {
				t.Errorf("a second run changes %v", again.Changes)
			}
			if diff := cmp.Diff(once, s.tree(t)); diff != "" {
				t.Errorf("a second run changed the node:\n%s", diff)
			}
			s.uninstall(t)
			if diff := cmp.Diff(fresh, s.tree(t)); diff != "" {
				t.Errorf("uninstalling left a difference (-before +after):\n%s", diff)
			}
			if leave := s.uninstall(t); leave.Installed() {
				t.Error("it is still installed")
			}
		})
	}
}

// What stands in the way is said before anything is changed.
func TestPlanRefuses(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		files map[string]string
		says  string
	}{
		"a flag in a package's unit": {
			kubeadm(map[string]string{"/usr/lib/systemd/system/kubelet.service.d/20-other.conf": "Environment=A=--image-service-endpoint=unix:///other.sock\n"}),
			"wins over its configuration",
		},
		"a later drop-in": {
			kubeadm(map[string]string{
				"/etc/default/kubelet":   "KUBELET_EXTRA_ARGS=--config-dir=/etc/k.d\n",
				"/etc/k.d/90-other.conf": "imageServiceEndpoint: unix:///other.sock\n",
			}), "/etc/k.d/90-other.conf says imageServiceEndpoint",
		},
		"a configuration in flow style": {kubeadm(map[string]string{"/var/lib/kubelet/config.yaml": `{"kind": "KubeletConfiguration"}`}), "not a list of keys, one a line"},
		"a configuration of two documents": {
			kubeadm(map[string]string{"/var/lib/kubelet/config.yaml": "a: 1\n---\nb: 2\n"}), "more than one document",
		},
		"no YAML":                  {kubeadm(map[string]string{"/var/lib/kubelet/config.yaml": "a: [\n"}), "read YAML"},
		"an invalid configuration": {map[string]string{"/etc/referee/config.toml": "version = 1\nroot = \"x\"\n"}, "root: must be an absolute path"},
		"a file for a directory":   {map[string]string{"/etc/referee": "a file"}, "a file is in the way"},
		"a directory for a file":   {map[string]string{"/usr/local/bin/referee/": ""}, "is a directory"},
		"a record of the future":   {map[string]string{"/var/lib/referee/install.json": `{"version": 2}`}, "knows version 1"},
		"a broken record":          {map[string]string{"/var/lib/referee/install.json": `{`}, "install.json"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScratch(t, tc.files)
			fresh := s.tree(t)
			if _, err := install.NewPlan(s.options()); err == nil || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("the plan: %v", err)
			}
			if diff := cmp.Diff(fresh, s.tree(t)); diff != "" {
				t.Errorf("planning changed the node:\n%s", diff)
			}
		})
	}
}

// What an operator wrote wins.
func TestOperatorsFilesAreKept(t *testing.T) {
	t.Parallel()
	own := map[string]string{
		"/etc/referee/config.toml":            "version = 1\n[cri]\nsocket = \"/run/other/cri.sock\"\n",
		"/etc/systemd/system/referee.service": "[Service]\nExecStart=/opt/referee serve\n",
		"/etc/crictl.yaml":                    "# mine\nimage-endpoint: unix:///run/containerd/containerd.sock\ndebug: false\n",
	}
	s := newScratch(t, own)
	plan := s.install(t)
	if notes := strings.Join(plan.Notes, "\n"); !strings.Contains(notes, "kept /etc/systemd/system/referee.service") {
		t.Errorf("it notes %q", notes)
	}
	for path, want := range map[string]string{
		"/etc/referee/config.toml":            own["/etc/referee/config.toml"],
		"/etc/systemd/system/referee.service": own["/etc/systemd/system/referee.service"],
		"/etc/crictl.yaml":                    "# mine\nimage-endpoint: unix:///run/other/cri.sock\ndebug: false\n",
	} {
		if got := s.read(t, path); got != want {
			t.Errorf("%s:\n%s", path, cmp.Diff(want, got))
		}
	}
	if socket := s.read(t, "/etc/systemd/system/referee.socket"); !strings.Contains(socket, "\nListenStream=/run/other/cri.sock\n") {
		t.Errorf("the socket's unit does not listen where the configuration says:\n%s", socket)
	}
}

// The kubelet's flags say what containerd's socket is, and which plugins have credentials.
func TestConfigurationFollowsTheKubelet(t *testing.T) {
	t.Parallel()
	s := newScratch(t, kubeadm(map[string]string{
		"/etc/default/kubelet": "KUBELET_EXTRA_ARGS=\"--image-credential-provider-config=/etc/cp.yaml --image-credential-provider-bin-dir=/opt/cp\"\n",
	}))
	s.install(t)
	config, err := configs.Load(filepath.Join(s.root, "etc/referee/config.toml"))
	if err != nil {
		t.Fatal(err)
	}
	want := configs.Default()
	want.CRI.Backend = "/run/cri/containerd.sock"
	want.Registry.CredentialProviderConfig, want.Registry.CredentialProviderBinDir = "/etc/cp.yaml", "/opt/cp"
	if diff := cmp.Diff(want, config); diff != "" {
		t.Error(diff)
	}
}

// A configuration that is given replaces the one that was given before, and never
// an operator's.
func TestGivenConfiguration(t *testing.T) {
	t.Parallel()
	s := newScratch(t, kubeadm(nil))
	give := func(text string) *install.Plan {
		opts := s.options()
		opts.Config = []byte(text)
		plan, err := install.NewPlan(opts)
		if err == nil {
			err = plan.Apply(t.Context(), install.Idle{})
		}
		if err != nil {
			t.Fatal(err)
		}
		return plan
	}
	for _, text := range []string{"version = 1\n", "version = 1\n[log]\nlevel = \"debug\"\n"} {
		give(text)
		if got := s.read(t, "/etc/referee/config.toml"); got != text {
			t.Errorf("the node has %q, given was %q", got, text)
		}
	}
	own := "version = 1\n[log]\nlevel = \"warn\"\n"
	s.place(t, "/etc/referee/config.toml", own)
	plan := give("version = 1\n")
	if got := s.read(t, "/etc/referee/config.toml"); got != own || !strings.Contains(strings.Join(plan.Notes, "\n"), "kept /etc/referee/config.toml") {
		t.Errorf("the operator's became %q, it notes %q", got, plan.Notes)
	}
	opts := s.options()
	opts.Root, opts.Config = newScratch(t, nil).root, []byte("version = 7\n")
	if _, err := install.NewPlan(opts); err == nil || !strings.Contains(err.Error(), "version: must be 1") {
		t.Errorf("an invalid one: %v", err)
	}
}

// An upgrade replaces what the former version brought, and still knows the way back.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	s := newScratch(t, kubeadm(map[string]string{"/usr/local/bin/referee": "somebody's"}))
	fresh := s.tree(t)
	s.install(t)
	opts := s.options()
	opts.Binary = []byte("\x7fELF\x00two")
	plan, err := install.NewPlan(opts)
	if err != nil {
		t.Fatal(err)
	}
	if len(plan.Changes) != 1 || plan.Changes[0].Path != "/usr/local/bin/referee" {
		t.Errorf("an upgrade changes %+v", plan.Changes)
	}
	if err := plan.Apply(t.Context(), install.Idle{}); err != nil {
		t.Fatal(err)
	}
	// kubeadm writes the kubelet's configuration anew when it upgrades a node.
	s.place(t, "/var/lib/kubelet/config.yaml", kubeadmConfig)
	if changes := s.install(t).Changes; len(changes) != 2 {
		t.Errorf("after kubeadm's upgrade %+v change", changes)
	}
	if config := s.read(t, "/var/lib/kubelet/config.yaml"); !strings.HasSuffix(config, endpoint+"\n") {
		t.Errorf("the kubelet's configuration:\n%s", config)
	}
	s.uninstall(t)
	if diff := cmp.Diff(fresh, s.tree(t)); diff != "" {
		t.Errorf("uninstalling left a difference (-before +after):\n%s", diff)
	}
}

// Files that were edited since are left, but nobody is left pointing at a socket
// that has gone.
func TestUninstallLeavesWhatWasEdited(t *testing.T) {
	t.Parallel()
	s := newScratch(t, kubeadm(map[string]string{"/etc/crictl.yaml": "image-endpoint: unix:///old.sock\ntimeout: 2\n"}))
	s.install(t)
	edited := "version = 1\n[log]\nlevel = \"debug\"\n"
	s.place(t, "/etc/referee/config.toml", edited)
	s.place(t, "/var/lib/kubelet/config.yaml", s.read(t, "/var/lib/kubelet/config.yaml")+"maxPods: 10\n")
	s.place(t, "/etc/crictl.yaml", s.read(t, "/etc/crictl.yaml")+"debug: true\n")
	s.place(t, "/var/lib/referee/journal/kept.json", "{}")
	leave := s.uninstall(t)
	for path, want := range map[string]string{
		"/etc/referee/config.toml":           edited,
		"/var/lib/kubelet/config.yaml":       kubeadmConfig + "maxPods: 10\n",
		"/etc/crictl.yaml":                   "image-endpoint: unix:///old.sock\ntimeout: 2\ndebug: true\n",
		"/var/lib/referee/journal/kept.json": "{}",
	} {
		if got := s.read(t, path); got != want {
			t.Errorf("%s:\n%s", path, cmp.Diff(want, got))
		}
	}
	notes := strings.Join(leave.Notes, "\n")
	for _, says := range []string{"left /etc/referee/config.toml: it was edited since", "config.yaml was edited since: only imageServiceEndpoint goes back"} {
		if !strings.Contains(notes, says) {
			t.Errorf("it notes\n%s\nand not %q", notes, says)
		}
	}
	if err := install.Purge(s.root, "/var/lib/referee"); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(s.root, "var/lib/referee")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("purged data: %v", err)
	}
}

// units records what it is asked, and fails at one of the requests.
type units struct {
	asked []string
	fails string
}

func (u *units) ask(what string) error {
	u.asked = append(u.asked, what)
	if what == u.fails {
		u.fails = ""
		return errors.New(what + ": no")
	}
	return nil
}

func (u *units) Reload(context.Context) error               { return u.ask("reload") }
func (u *units) Start(_ context.Context, unit string) error { return u.ask("start " + unit) }

func (u *units) Restart(_ context.Context, unit string) error { return u.ask("restart " + unit) }

func (u *units) RestartRunning(_ context.Context, unit string) error { return u.ask("restart " + unit) }

func (u *units) Stop(_ context.Context, unit string) error { return u.ask("stop " + unit) }

// The kubelet is sent to the daemon once that runs, and away before it ends.
func TestOrderOfServices(t *testing.T) {
	t.Parallel()
	s := newScratch(t, kubeadm(nil))
	var u units
	if err := s.plan(t).Apply(t.Context(), &u); err != nil {
		t.Fatal(err)
	}
	want := []string{"reload", "start referee.socket", "restart referee.service", "restart kubelet.service"}
	if !slices.Equal(u.asked, want) {
		t.Errorf("installing asks for %q", u.asked)
	}
	u.asked = nil
	leave, err := install.NewLeave(s.root)
	if err == nil {
		err = leave.Apply(t.Context(), &u)
	}
	if err != nil {
		t.Fatal(err)
	}
	want = []string{"restart kubelet.service", "stop referee.socket", "stop referee.service", "reload"}
	if !slices.Equal(u.asked, want) {
		t.Errorf("uninstalling asks for %q", u.asked)
	}
}

// Whatever fails, the node is as it was: a new one, and one with a former version.
func TestFailureUndoesEverything(t *testing.T) {
	t.Parallel()
	for _, fails := range []string{"reload", "start referee.socket", "restart referee.service", "restart kubelet.service"} {
		for name, before := range map[string]bool{"new": false, "upgrade": true} {
			t.Run(name+", "+fails, func(t *testing.T) {
				t.Parallel()
				s := newScratch(t, kubeadm(nil))
				if before {
					s.install(t)
					s.place(t, "/var/lib/kubelet/config.yaml", kubeadmConfig)
				}
				fresh := s.tree(t)
				opts := s.options()
				opts.Binary = []byte("another")
				plan, err := install.NewPlan(opts)
				if err != nil {
					t.Fatal(err)
				}
				if err := plan.Apply(t.Context(), &units{fails: fails}); err == nil || !strings.Contains(err.Error(), fails+": no") {
					t.Errorf("it says %v", err)
				}
				if diff := cmp.Diff(fresh, s.tree(t)); diff != "" {
					t.Errorf("a difference is left (-before +after):\n%s", diff)
				}
			})
		}
	}
}

// A file that cannot be written undoes what came before it.
func TestUnwritableFileUndoesEverything(t *testing.T) {
	t.Parallel()
	s := newScratch(t, kubeadm(nil))
	plan := s.plan(t)
	s.place(t, "/etc/crictl.yaml/full", "now a directory that is not empty")
	fresh := s.tree(t)
	if err := plan.Apply(t.Context(), install.Idle{}); err == nil || !strings.Contains(err.Error(), "/etc/crictl.yaml") {
		t.Errorf("it says %v", err)
	}
	if diff := cmp.Diff(fresh, s.tree(t)); diff != "" {
		t.Errorf("a difference is left (-before +after):\n%s", diff)
	}
}

// A record that was written and never acted upon, as after a crash, is undone.
func TestCrashAfterTheRecord(t *testing.T) {
	t.Parallel()
	s := newScratch(t, kubeadm(nil))
	fresh := s.tree(t)
	s.install(t)
	// As if power had failed before these were written.
	s.place(t, "/var/lib/kubelet/config.yaml", kubeadmConfig)
	for _, path := range []string{"etc/crictl.yaml", "etc/systemd/system/referee.service"} {
		if err := os.Remove(filepath.Join(s.root, path)); err != nil {
			t.Fatal(err)
		}
	}
	s.uninstall(t)
	if diff := cmp.Diff(fresh, s.tree(t)); diff != "" {
		t.Errorf("uninstalling left a difference (-before +after):\n%s", diff)
	}
}

// With a package's program and units only links, configuration and traffic remain.
func TestPackagedProgram(t *testing.T) {
	t.Parallel()
	s := newScratch(t, kubeadm(map[string]string{
		"/usr/lib/systemd/system/referee.service": "[Service]\n", "/usr/lib/systemd/system/referee.socket": "[Socket]\n",
	}))
	opts := s.options()
	opts.Running = "/usr/bin/referee"
	plan, err := install.NewPlan(opts)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range plan.Changes {
		if strings.HasSuffix(c.Path, "/bin/referee") || strings.HasPrefix(c.Path, "/etc/systemd/system/referee") {
			t.Errorf("it makes %s", c.Path)
		}
	}
	if err := plan.Apply(t.Context(), install.Idle{}); err != nil {
		t.Fatal(err)
	}
	if link, err := os.Readlink(filepath.Join(s.root, "etc/systemd/system/sockets.target.wants/referee.socket")); err != nil || link != "/usr/lib/systemd/system/referee.socket" {
		t.Errorf("the socket's link is %s, %v", link, err)
	}
}

// A tree that somebody else made may have links that lead out of it.
func TestLinksStayInsideTheRoot(t *testing.T) {
	t.Parallel()
	outside := t.TempDir()
	s := newScratch(t, map[string]string{
		"/etc/systemd": "-> " + outside, "/usr/local": "-> ../../../../../../../.." + outside, "/etc/crictl.yaml": "-> " + outside + "/crictl.yaml",
		"/var/lib/kubelet/config.yaml": "-> ../../../../../../../../.." + outside + "/kubelet.yaml",
	})
	for _, name := range []string{"crictl.yaml", "kubelet.yaml"} {
		if err := os.WriteFile(filepath.Join(outside, name), []byte("kind: outside\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	plan, err := install.NewPlan(s.options())
	if err == nil {
		err = plan.Apply(t.Context(), install.Idle{})
	}
	if err != nil {
		t.Logf("it refuses: %v", err) // as good
	}
	entries, err := os.ReadDir(outside)
	if err != nil || len(entries) != 2 {
		t.Errorf("outside the tree are %v, %v", entries, err)
	}
	for _, name := range []string{"crictl.yaml", "kubelet.yaml"} {
		if text, err := os.ReadFile(filepath.Join(outside, name)); err != nil || string(text) != "kind: outside\n" {
			t.Errorf("%s outside the tree became %q, %v", name, text, err)
		}
	}
}

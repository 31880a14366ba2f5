package configs_test

import (
	"bytes"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/coreos/go-systemd/v22/unit"
	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"github.com/referee-cri/referee/configs"
)

func shipped(t *testing.T, name string) []byte {
	t.Helper()
	text, err := configs.Files.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// The snippets, the units and the default configuration name one socket.
func TestEverybodyNamesTheSameSocket(t *testing.T) {
	t.Parallel()
	config := configs.Default()
	var kubelet struct {
		APIVersion           string `yaml:"apiVersion"`
		Kind                 string `yaml:"kind"`
		ImageServiceEndpoint string `yaml:"imageServiceEndpoint"` // KubeletConfiguration, kubelet.config.k8s.io/v1beta1
	}
	strict(t, "kubelet.conf", &kubelet)
	var crictl struct {
		Runtime string `yaml:"runtime-endpoint"`
		Image   string `yaml:"image-endpoint"`
		Timeout int    `yaml:"timeout"`
	}
	strict(t, "crictl.yaml", &crictl)
	if kubelet.APIVersion != "kubelet.config.k8s.io/v1beta1" || kubelet.Kind != "KubeletConfiguration" {
		t.Errorf("kubelet.conf is a %s %s", kubelet.APIVersion, kubelet.Kind)
	}
	want := "unix://" + config.CRI.Socket
	if kubelet.ImageServiceEndpoint != want || crictl.Image != want {
		t.Errorf("kubelet.conf names %q, crictl.yaml %q, want %q", kubelet.ImageServiceEndpoint, crictl.Image, want)
	}
	if crictl.Runtime != "unix://"+config.CRI.Backend {
		t.Errorf("crictl.yaml's runtime is %q", crictl.Runtime)
	}
	if got := directives(t, "referee.socket")["ListenStream"]; !slices.Equal(got, []string{config.CRI.Socket}) {
		t.Errorf("referee.socket listens on %q", got)
	}
}

// A mount namespace of the service's own would hide its mounts from containerd;
// RuntimeDirectory= would be deleted with volumes mounted inside.
func TestServiceSharesTheHostsMounts(t *testing.T) {
	t.Parallel()
	set := directives(t, "referee.service")
	forbidden := regexp.MustCompile(`^(Private|Protect|ReadOnly|ReadWrite|Inaccessible|NoExec|Exec|BindPaths|BindReadOnly|Root|Mount|TemporaryFileSystem|DynamicUser|` +
		`RuntimeDirectory|StateDirectory|CacheDirectory|RestrictSUIDSGID|RestrictNamespaces|User|Group)`)
	for name := range set {
		if forbidden.MatchString(name) && !slices.Contains([]string{"ExecStart"}, name) {
			t.Errorf("%s= breaks mounts or materialising", name)
		}
	}
	for name, want := range map[string]string{
		"Type": "notify", "KillMode": "process", "Restart": "always", "OOMScoreAdjust": "-999",
		"Before": "kubelet.service", "Requires": "referee.socket", "FileDescriptorStoreMax": "512",
	} {
		if got := set[name]; !slices.Equal(got, []string{want}) {
			t.Errorf("%s= is %q, want %q", name, got, want)
		}
	}
}

func TestUnitsPassSystemdsOwnCheck(t *testing.T) {
	t.Parallel()
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skipf("no systemd-analyze to check the units with: %v", err)
	}
	dir := t.TempDir()
	binary := filepath.Join(dir, "referee")
	if err := os.WriteFile(binary, []byte("#!/bin/sh\n"), 0o700); err != nil { //nolint:gosec // an executable
		t.Fatal(err)
	}
	var paths []string
	for _, name := range []string{"referee.socket", "referee.service"} {
		text := bytes.ReplaceAll(shipped(t, name), []byte("/usr/local/bin/referee"), []byte(binary))
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		paths = append(paths, path)
	}
	out, err := exec.CommandContext(t.Context(), analyze, append([]string{"verify", "--man=no"}, paths...)...).CombinedOutput()
	var ours []string
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "referee") { // the machine's own units may have faults of their own
			ours = append(ours, line)
		}
	}
	if len(ours) > 0 || (err != nil && len(out) == 0) {
		t.Errorf("systemd-analyze verify: %v\n%s", err, strings.Join(ours, ""))
	}
}

// A check that never complains proves nothing.
func TestSystemdsCheckSeesAnUnknownKey(t *testing.T) {
	t.Parallel()
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skipf("no systemd-analyze: %v", err)
	}
	path := filepath.Join(t.TempDir(), "referee-wrong.service")
	if err := os.WriteFile(path, []byte("[Service]\nExecStart=/bin/true\nKillMoode=process\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, _ := exec.CommandContext(t.Context(), analyze, "verify", "--man=no", path).CombinedOutput()
	if !strings.Contains(string(out), "KillMoode") {
		t.Errorf("systemd-analyze did not notice:\n%s", out)
	}
}

func TestScriptIsClean(t *testing.T) {
	t.Parallel()
	run(t, "sh", "-n", "bootstrap.sh")
	shellcheck, err := exec.LookPath("shellcheck")
	if err != nil {
		t.Skipf("sh -n passed; no shellcheck for the rest: %v", err)
	}
	run(t, shellcheck, "--shell=sh", "bootstrap.sh")
}

func TestBootstrapIsIdempotentAndReversible(t *testing.T) {
	t.Parallel()
	const crictl = "# mine\nruntime-endpoint: unix:///run/containerd/containerd.sock\nimage-endpoint: unix:///run/containerd/containerd.sock\ndebug: false\n"
	for name, before := range map[string]map[string]string{
		"an empty tree":                   {},
		"a node with its own crictl":      {"/etc/crictl.yaml": crictl, "/etc/kubernetes/kubelet.conf.d/10-own.conf": "kind: KubeletConfiguration\n"},
		"an operator's own configuration": {"/etc/referee/config.toml": "version = 1\n[log]\nlevel = \"debug\"\n"},
		"an operator's own unit":          {"/etc/systemd/system/referee.service": "[Service]\nExecStart=/opt/referee serve\n"},
		"an empty drop-in directory":      {"/etc/kubernetes/kubelet.conf.d/": ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root, binary := t.TempDir(), fakeBinary(t)
			for path, text := range before {
				place(t, root, path, text)
			}
			fresh := tree(t, root)
			out := run(t, "sh", "bootstrap.sh", "--root", root, "--prefix", "/opt/referee", binary)
			once := tree(t, root)
			if !strings.Contains(out, "--config-dir") {
				t.Errorf("nothing said about the kubelet's --config-dir:\n%s", out)
			}
			installed(t, root, before)

			run(t, "sh", "bootstrap.sh", "--root", root, "--prefix", "/opt/referee", binary)
			if diff := cmp.Diff(once, tree(t, root)); diff != "" {
				t.Errorf("a second run changed the node:\n%s", diff)
			}

			run(t, "sh", "bootstrap.sh", "--root", root, "--prefix", "/opt/referee", "--uninstall")
			if diff := cmp.Diff(fresh, tree(t, root)); diff != "" {
				t.Errorf("uninstalling left a difference (-before +after):\n%s", diff)
			}
			run(t, "sh", "bootstrap.sh", "--root", root, "--uninstall")
		})
	}
}

func TestUninstallKeepsWhatAnOperatorEdited(t *testing.T) {
	t.Parallel()
	root, binary := t.TempDir(), fakeBinary(t)
	place(t, root, "/etc/crictl.yaml", "image-endpoint: unix:///old.sock\ntimeout: 2\n")
	run(t, "sh", "bootstrap.sh", "--root", root, binary)
	edited := "version = 1\n[log]\nlevel = \"debug\"\n"
	place(t, root, "/etc/referee/config.toml", edited)
	appendTo(t, filepath.Join(root, "etc/crictl.yaml"), "debug: true\n")
	place(t, root, "/var/lib/referee/journal/kept.json", "{}")
	run(t, "sh", "bootstrap.sh", "--root", root, "--uninstall")

	got := tree(t, root)
	want := map[string]string{
		"etc":                     "dir",
		"etc/crictl.yaml":         "-rw-r--r-- timeout: 2\ndebug: true\nimage-endpoint: unix:///old.sock\n",
		"etc/referee":             "dir",
		"etc/referee/config.toml": "-rw-r--r-- " + edited,
		"var":                     "dir", "var/lib": "dir", "var/lib/referee": "dir", "var/lib/referee/journal": "dir",
		"var/lib/referee/journal/kept.json": "-rw-r--r-- {}",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("left on the node (-want +got):\n%s", diff)
	}
}

func TestBootstrapRefusesNonsense(t *testing.T) {
	t.Parallel()
	for name, args := range map[string][]string{
		"an unknown option":  {"--frobnicate"},
		"a relative root":    {"--root", "tmp"},
		"no binary there":    {"--root", t.TempDir(), "/nonexistent/referee"},
		"a prefix for sed":   {"--root", t.TempDir(), "--prefix", "/a|b", fakeBinary(t)},
		"two binaries":       {"one", "two"},
		"a missing argument": {"--prefix"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out, err := exec.CommandContext(t.Context(), "sh", append([]string{"bootstrap.sh"}, args...)...).CombinedOutput()
			if err == nil || !strings.HasPrefix(string(out), "bootstrap: ") {
				t.Errorf("it ran: %v\n%s", err, out)
			}
		})
	}
}

// installed checks the tree as a node would use it.
func installed(t *testing.T, root string, before map[string]string) {
	t.Helper()
	if _, own := before["/etc/referee/config.toml"]; !own {
		config, err := configs.Load(filepath.Join(root, "etc/referee/config.toml"))
		if err != nil {
			t.Error(err)
		} else if diff := cmp.Diff(configs.Default(), config); diff != "" {
			t.Error(diff)
		}
	}
	for path, text := range before {
		if got := read(t, filepath.Join(root, path)); path != "/etc/crictl.yaml" && got != text {
			t.Errorf("%s was overwritten:\n%s", path, got)
		}
	}
	if _, own := before["/etc/systemd/system/referee.service"]; !own {
		service := read(t, filepath.Join(root, "etc/systemd/system/referee.service"))
		if !strings.Contains(service, "ExecStart=/opt/referee/bin/referee serve --config /etc/referee/config.toml\n") {
			t.Errorf("the unit does not start the installed binary:\n%s", service)
		}
	}
	if crictl := read(t, filepath.Join(root, "etc/crictl.yaml")); strings.Count(crictl, "image-endpoint: ") != 1 ||
		!strings.Contains(crictl, "image-endpoint: unix:///run/referee/cri.sock\n") {
		t.Errorf("crictl.yaml:\n%s", crictl)
	}
	for link, unit := range map[string]string{
		"sockets.target.wants/referee.socket": "referee.socket", "multi-user.target.wants/referee.service": "referee.service",
	} {
		if target, err := os.Readlink(filepath.Join(root, "etc/systemd/system", link)); err != nil || target != "/etc/systemd/system/"+unit {
			t.Errorf("%s points at %q, %v", link, target, err)
		}
	}
	if _, err := os.Stat(filepath.Join(root, "etc/kubernetes/kubelet.conf.d/50-referee.conf")); err != nil {
		t.Error(err)
	}
}

func strict(t *testing.T, name string, into any) {
	t.Helper()
	decoder := yaml.NewDecoder(bytes.NewReader(shipped(t, name)))
	decoder.KnownFields(true)
	if err := decoder.Decode(into); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

// directives returns the settings of a unit, by name, over all sections.
func directives(t *testing.T, name string) map[string][]string {
	t.Helper()
	options, err := unit.DeserializeOptions(io.Reader(bytes.NewReader(shipped(t, name))))
	if err != nil {
		t.Fatal(err)
	}
	set := map[string][]string{}
	for _, option := range options {
		set[option.Name] = append(set[option.Name], option.Value)
	}
	return set
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}

func fakeBinary(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "referee")
	if err := os.WriteFile(path, []byte("#!/bin/sh\nexit 1\n"), 0o700); err != nil { //nolint:gosec // an executable
		t.Fatal(err)
	}
	return path
}

func place(t *testing.T, root, path, text string) {
	t.Helper()
	full := filepath.Join(root, path)
	if strings.HasSuffix(path, "/") {
		if err := os.MkdirAll(full, 0o755); err != nil { //nolint:gosec // as on a node
			t.Fatal(err)
		}
		return
	}
	if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil { //nolint:gosec // as on a node
		t.Fatal(err)
	}
	if err := os.WriteFile(full, []byte(text), 0o644); err != nil { //nolint:gosec // as on a node
		t.Fatal(err)
	}
}

func appendTo(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(read(t, path)+text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// read returns a file's text, nothing for a directory.
func read(t *testing.T, path string) string {
	t.Helper()
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return ""
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// tree describes everything below root: mode and text, or where a link points.
func tree(t *testing.T, root string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		name, err := filepath.Rel(root, path)
		switch {
		case err != nil:
			return err
		case entry.IsDir():
			all[name] = "dir"
		case entry.Type() == fs.ModeSymlink:
			target, err := os.Readlink(path)
			all[name] = "-> " + target
			return err
		default:
			info, err := entry.Info()
			if err != nil {
				return err
			}
			all[name] = info.Mode().String() + " " + read(t, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

package configs_test

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/coreos/go-systemd/v22/unit"
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
		"Before": "kubelet.service", "Requires": "referee.socket",
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

// The script only finds the binary and hands over.
func TestBootstrapHandsOverToTheBinary(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	program := "#!/bin/sh\necho \"$0\" \"$@\"\n"
	for _, name := range []string{"referee", "other"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(program), 0o700); err != nil { //nolint:gosec // an executable
			t.Fatal(err)
		}
	}
	script := filepath.Join(dir, "bootstrap.sh")
	if err := os.WriteFile(script, shipped(t, "bootstrap.sh"), 0o600); err != nil {
		t.Fatal(err)
	}
	beside, other := filepath.Join(dir, "referee"), filepath.Join(dir, "other")
	for name, tc := range map[string]struct {
		args []string
		want string
	}{
		"the binary beside it": {nil, beside + " install"},
		"options":              {[]string{"--root", "/a b", "--dry-run"}, beside + " install --root /a b --dry-run"},
		"another binary":       {[]string{other, "--no-start"}, other + " install --no-start"},
		"away again":           {[]string{"--uninstall", "--purge"}, beside + " uninstall --purge"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := strings.TrimSpace(run(t, "sh", append([]string{script}, tc.args...)...)); got != tc.want {
				t.Errorf("it runs %q, want %q", got, tc.want)
			}
		})
	}
	out, err := exec.CommandContext(t.Context(), "sh", script, "/nonexistent/referee").CombinedOutput()
	if err == nil || string(out) != "bootstrap: no executable at /nonexistent/referee\n" {
		t.Errorf("without a binary: %v\n%s", err, out)
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

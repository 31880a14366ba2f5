package main

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// The date and version of all packages of these tests.
const testVersion = "v1.2.3"

func testDate() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) }

// built makes packages of the checkout at source, for this machine unless told otherwise.
func built(t *testing.T, source string, arches ...string) release {
	t.Helper()
	if len(arches) == 0 {
		arches = []string{runtime.GOARCH}
	}
	source, err := filepath.Abs(source)
	if err != nil {
		t.Fatal(err)
	}
	r := release{source: source, out: t.TempDir(), version: testVersion, date: testDate()}
	if err := r.make(t.Context(), arches); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r release) file(t *testing.T, pattern string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(r.out, pattern))
	if err != nil || len(found) != 1 {
		t.Fatalf("%s: %v, %v", pattern, found, err)
	}
	return found[0]
}

// command runs a program and returns what it says.
func command(t *testing.T, name string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Skipf("no %s: %v", name, err)
	}
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// Two builds of one source, in different places, are the same bytes.
func TestReproducible(t *testing.T) {
	t.Parallel()
	elsewhere := filepath.Join(t.TempDir(), "another", "place")
	if err := os.CopyFS(elsewhere, source(t)); err != nil {
		t.Fatal(err)
	}
	one, two := built(t, ".."), built(t, elsewhere)
	first, err := os.ReadFile(filepath.Join(one.out, "SHA256SUMS"))
	if err != nil {
		t.Fatal(err)
	}
	second, err := os.ReadFile(filepath.Join(two.out, "SHA256SUMS"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first, second) || strings.Count(string(first), "\n") != 5 {
		t.Errorf("one build:\n%s\nanother:\n%s", first, second)
	}
}

// source is the checkout without what is built in it.
func source(t *testing.T) fs.FS {
	t.Helper()
	dir := t.TempDir()
	archive := filepath.Join(dir, "source.tar")
	command(t, "git", "-C", "..", "archive", "--output="+archive, command1(t, "git", "stash", "create"))
	tree := filepath.Join(dir, "tree")
	if err := os.Mkdir(tree, 0o755); err != nil {
		t.Fatal(err)
	}
	command(t, "tar", "-xf", archive, "-C", tree)
	return os.DirFS(tree)
}

// command1 is the first line of what a program says, or HEAD where it says nothing:
// a checkout without changes has nothing to stash.
func command1(t *testing.T, name string, args ...string) string {
	t.Helper()
	line, _, _ := strings.Cut(command(t, name, args...), "\n")
	if line == "" {
		return "HEAD"
	}
	return line
}

func TestBill(t *testing.T) {
	t.Parallel()
	r := built(t, "..")
	text, err := os.ReadFile(r.file(t, "*.cdx.json"))
	if err != nil {
		t.Fatal(err)
	}
	var bill struct {
		BOMFormat string
		Metadata  struct {
			Component struct{ Name, Version string }
		}
		Components []struct{ Name, Version, PURL string }
	}
	if err := json.Unmarshal(text, &bill); err != nil {
		t.Fatal(err)
	}
	if bill.BOMFormat != "CycloneDX" || bill.Metadata.Component.Version != testVersion {
		t.Errorf("a %s of %+v", bill.BOMFormat, bill.Metadata.Component)
	}
	for _, name := range []string{"stdlib", "google.golang.org/grpc", "github.com/containerd/containerd/v2"} {
		if !slices.ContainsFunc(bill.Components, func(c struct{ Name, Version, PURL string }) bool {
			return c.Name == name && c.Version != "" && c.PURL == "pkg:golang/"+name+"@"+c.Version
		}) {
			t.Errorf("it does not name %s", name)
		}
	}
	if out := command(t, r.file(t, "referee-linux-"+runtime.GOARCH), "--version"); !strings.Contains(out, testVersion) {
		t.Errorf("the binary calls itself %s", out)
	}
}

const kubeletConfig = "kind: KubeletConfiguration # mine\n"

// A package is installed into a tree, the node changed with what it brought, and
// removed and purged: nothing is left but what was there.
func TestDebianPackage(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("dpkg needs root")
	}
	deb, root := built(t, "..").file(t, "*.deb"), t.TempDir()
	kubelet := filepath.Join(root, "var/lib/kubelet/config.yaml")
	for path, text := range map[string]string{"var/lib/dpkg/status": "", "var/lib/dpkg/info/format": "1\n", "var/lib/dpkg/updates/.keep": "", "var/lib/kubelet/config.yaml": kubeletConfig} {
		full := filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(full, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(filepath.Join(root, "var/lib/dpkg/updates/.keep")); err != nil {
		t.Fatal(err)
	}
	before := list(t, root)
	dpkg := func(args ...string) string {
		return command(t, "dpkg", append([]string{"--root=" + root, "--force-script-chrootless", "--force-depends", "--log=/dev/null"}, args...)...)
	}
	dpkg("--install", deb)
	for _, path := range []string{
		"usr/bin/referee", "usr/lib/systemd/system/referee.service", "usr/lib/systemd/system/referee.socket", "usr/share/man/man8/referee-install.8.gz",
		"usr/share/bash-completion/completions/referee", "usr/share/doc/referee/copyright", "usr/share/doc/referee/referee.cdx.json",
	} {
		if _, err := os.Stat(filepath.Join(root, path)); err != nil {
			t.Error(err)
		}
	}
	if unit, err := os.ReadFile(filepath.Join(root, "usr/lib/systemd/system/referee.service")); err != nil || !strings.Contains(string(unit), "\nExecStart=/usr/bin/referee serve ") {
		t.Errorf("the unit: %v\n%s", err, unit)
	}
	said := command(t, filepath.Join(root, "usr/bin/referee"), "install", "--root", root, "--no-start")
	if strings.Contains(said, "/usr/local") || !strings.Contains(said, "a link to /usr/lib/systemd/system/referee.socket") {
		t.Errorf("the package's program installs\n%s", said)
	}
	if out := dpkg("--remove", "referee"); !strings.Contains(out, "-imageServiceEndpoint: ") {
		t.Errorf("removing the package says\n%s", out)
	}
	if text, err := os.ReadFile(kubelet); err != nil || string(text) != kubeletConfig {
		t.Errorf("the kubelet's configuration is %q, %v", text, err)
	}
	dpkg("--purge", "referee")
	if after := list(t, root); !slices.Equal(before, after) {
		t.Errorf("before there was\n%s\nafter\n%s", strings.Join(before, "\n"), strings.Join(after, "\n"))
	}
}

// list are the paths below root, but for dpkg's own.
func list(t *testing.T, root string) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if entry != nil && entry.IsDir() && strings.HasSuffix(path, "/var/lib/dpkg") {
			return fs.SkipDir
		}
		all = append(all, strings.TrimPrefix(path, root))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestRPM(t *testing.T) {
	t.Parallel()
	rpm := built(t, "..").file(t, "*.rpm")
	files := command(t, "rpm", "--query", "--list", "--package", rpm)
	for _, path := range []string{"/usr/bin/referee", "/usr/lib/systemd/system/referee.service", "/usr/share/man/man8/referee.8.gz"} {
		if !strings.Contains(files, path+"\n") {
			t.Errorf("it has no %s", path)
		}
	}
	if scripts := command(t, "rpm", "--query", "--scripts", "--package", rpm); !strings.Contains(scripts, "remove | 0) ;;") {
		t.Errorf("its scripts are\n%s", scripts)
	}
	if about := command(t, "rpm", "--query", "--info", "--package", rpm); !strings.Contains(about, "Version     : 1.2.3") || !strings.Contains(about, "Apache-2.0") {
		t.Errorf("it says of itself\n%s", about)
	}
	root := t.TempDir()
	command(t, "rpm", "--root", root, "--install", "--nodeps", "--noscripts", "--ignorearch", rpm)
	if _, err := os.Stat(filepath.Join(root, "usr/bin/referee")); err != nil {
		t.Error(err)
	}
}

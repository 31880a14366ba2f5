package configs_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/pelletier/go-toml/v2"

	"github.com/referee-cri/referee/configs"
)

func TestShippedFileIsTheDefault(t *testing.T) {
	t.Parallel()
	got, err := configs.Parse("config.toml", configs.DefaultTOML)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(configs.Default(), got); diff != "" {
		t.Errorf("config.toml and Default differ (-default +file):\n%s", diff)
	}
}

// Every key of the structure stands in the shipped file, so that an operator
// need not read Go to find one.
func TestShippedFileNamesEveryKey(t *testing.T) {
	t.Parallel()
	text, err := toml.Marshal(configs.Default())
	if err != nil {
		t.Fatal(err)
	}
	var structure, file map[string]any
	if err := toml.Unmarshal(text, &structure); err != nil {
		t.Fatal(err)
	}
	if err := toml.Unmarshal(configs.DefaultTOML, &file); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(structure, file); diff != "" {
		t.Errorf("keys or their text differ (-marshalled +config.toml):\n%s", diff)
	}
}

func TestLoadKeepsWhatTheFileDoesNotSay(t *testing.T) {
	t.Parallel()
	path := write(t, `
version = 1
disabled = ["registry.example/a/*"]
[pull]
negotiate_timeout = "750ms"
[cache]
max_size = "64MiB"
`)
	got, err := configs.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	want := configs.Default()
	want.Disabled = []string{"registry.example/a/*"}
	want.Pull.NegotiateTimeout = configs.Duration{Duration: 750 * time.Millisecond}
	want.Cache.MaxSize = configs.Size{Bytes: 64 * configs.MiB}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("loaded configuration (-want +got):\n%s", diff)
	}
}

func TestLoadSaysWhereAndWhat(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		text string
		want []string // each a part of the message; %s is the path
	}{
		"unknown keys, all of them": {
			"version = 1\n[pull]\nattach_timeot = \"1s\"\n[chace]\ndir = \"/c\"\n",
			[]string{"%s:3:1: unknown key pull.attach_timeot", "%s:4:2: unknown key chace"},
		},
		"syntax":                      {"version = 1\nroot = \n", []string{"%s:2:"}},
		"a duration without a unit":   {"version = 1\n[pull]\nattach_timeout = \"3\"\n", []string{"%s:3:", `"3" is not a duration`}},
		"a duration that is a number": {"version = 1\n[pull]\nattach_timeout = 3\n", []string{"%s: ", `"3" is not a duration`}},
		"a size that is a number":     {"version = 1\n[cache]\nmax_size = 3000000000\n", []string{"%s: ", `"3000000000" is not a size`}},
		"a decimal size":              {"version = 1\n[cache]\nmax_size = \"20GB\"\n", []string{"%s:3:", `"20GB" is not a size`}},
		"a size beyond 64 bits":       {"version = 1\n[cache]\nmax_size = \"9999999999TiB\"\n", []string{"%s:3:", "not a size"}},
		"a key that went away":        {"version = 1\n[registry]\nlegacy_oras = [\"*\"]\n", []string{"%s:3:1: unknown key registry.legacy_oras: use legacy_oras in a [[policy]] block"}},
		"neither formats nor none":    {"version = 1\n[[policy]]\nformats = \"overlaybd\"\n", []string{"%s:3:", `"overlaybd" is neither a list of formats nor "none"`}},
		"no version":                  {"root = \"/r\"\n", []string{"%s", "version: must be 1, is 0"}},
		"a later version":             {"version = 2\n", []string{"version: must be 1, is 2"}},
		"an invalid value":            {"version = 1\n[log]\nlevel = \"loud\"\n", []string{"%s", `log.level: must be one of debug, info, warn, error, is "loud"`}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := write(t, tc.text)
			_, err := configs.Load(path)
			if err == nil {
				t.Fatal("loaded without an error")
			}
			for _, part := range tc.want {
				if strings.Contains(part, "%s") {
					part = fmt.Sprintf(part, path)
				}
				if !strings.Contains(err.Error(), part) {
					t.Errorf("error lacks %q:\n%s", part, err)
				}
			}
		})
	}
}

func TestLoadOfNoFile(t *testing.T) {
	t.Parallel()
	if _, err := configs.Load(filepath.Join(t.TempDir(), "absent")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error is %v, want fs.ErrNotExist", err)
	}
}

func TestLoadRefusesALargeFile(t *testing.T) {
	t.Parallel()
	path := write(t, "version = 1\n#"+strings.Repeat("x", 1<<20))
	if _, err := configs.Load(path); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("error is %v", err)
	}
}

func TestValidateReportsEveryKey(t *testing.T) {
	t.Parallel()
	if err := configs.Default().Validate(); err != nil {
		t.Fatalf("the defaults are invalid: %v", err)
	}
	bad := configs.Config{
		Root:       "relative",
		State:      "/",
		Disabled:   []string{"redis", "", "registry.example/a b", "*/fine", "localhost/fine", "docker.io/fine:1"},
		CRI:        configs.CRI{Socket: "/s", Backend: "/s"},
		Containerd: configs.Containerd{Address: "unix:///run/c.sock", ImageVerifierDir: "bin", ImageVerifierMax: -2},
		Registry: configs.Registry{
			ConfigPath:               "/fine:certs.d",
			DockerConfig:             "config.json",
			CredentialProviderConfig: "providers.yaml",
		},
		Pull:    configs.Pull{RecheckAfter: configs.Duration{Duration: -1}},
		Cache:   configs.Cache{Dir: "cache", MaxSize: configs.Size{Bytes: 1}},
		Attach:  configs.Attach{Driver: "floppy"},
		Breaker: configs.Breaker{Failures: 0},
	}
	expectProblems(t, bad.Validate(), []string{
		"version", "root", "state", "disabled[0]", "disabled[1]", "disabled[2]", "cri.backend", "containerd.address",
		"containerd.namespace", "containerd.image_verifier_dir", "containerd.image_verifier_timeout", "containerd.image_verifier_max",
		"registry.config_path", "registry.docker_config",
		"registry.credential_provider_config", "registry.credential_provider_timeout", "registry.credential_provider_bin_dir",
		"pull.negotiate_timeout", "pull.attach_timeout", "pull.node_timeout", "pull.recheck_after",
		"cache.dir", "cache.max_size", "reads.give_up_after", "attach.driver",
		"breaker.failures", "breaker.open_for", "log.level", "log.format",
	})
}

// expectProblems compares the keys that err, of Validate, has a line for.
func expectProblems(t *testing.T, err error, want []string) {
	t.Helper()
	if err == nil {
		t.Fatal("valid")
	}
	var keys []string
	for line := range strings.Lines(err.Error()) {
		key, _, _ := strings.Cut(line, ": ")
		keys = append(keys, key)
	}
	if diff := cmp.Diff(want, keys); diff != "" {
		t.Errorf("keys with problems (-want +got):\n%s\n%s", diff, err)
	}
}

func TestValidateBoundsSocketPaths(t *testing.T) {
	t.Parallel()
	for length, valid := range map[int]bool{107: true, 108: false} {
		config := configs.Default()
		config.CRI.Socket = "/" + strings.Repeat("s", length-1)
		if err := config.Validate(); (err == nil) != valid {
			t.Errorf("a socket path of %d bytes: %v", length, err)
		}
	}
}

func TestDerivedValues(t *testing.T) {
	t.Parallel()
	config := configs.Default()
	if got := config.ContainerdAddress(); got != config.CRI.Backend {
		t.Errorf("containerd's address is %q", got)
	}
	if got := config.CacheDir(); got != "/var/lib/referee/cache" {
		t.Errorf("cache directory is %q", got)
	}
	if diff := cmp.Diff([]string{"/etc/containerd/certs.d", "/etc/docker/certs.d"}, config.HostDirs()); diff != "" {
		t.Error(diff)
	}
	config.Containerd.Address, config.Cache.Dir, config.Registry.ConfigPath = "/c", "/d", ""
	if got := config.ContainerdAddress() + config.CacheDir(); got != "/c/d" || len(config.HostDirs()) != 0 {
		t.Errorf("own values are not used: %q %q", got, config.HostDirs())
	}
}

func FuzzParse(f *testing.F) {
	f.Add(configs.DefaultTOML)
	f.Add([]byte("version = 1\n[cache]\nmax_size = \"1TiB\"\n"))
	f.Add([]byte("version = 1\ndisabled = [\"**\"]\n[pull]\nrecheck_after = \"1h0m0s\"\n"))
	f.Add([]byte("version = 1\n[[policy]]\nformats = \"none\"\n[[policy]]\nmatch = [\"r.example/**\"]\nmin_size = \"0B\"\ntrust = [\"a\"]\n[[trust]]\nname = \"a\"\ntype = \"sigstore\"\nrequire_log = false\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		config, err := configs.Parse("fuzz", text)
		if err != nil {
			return
		}
		again, err := toml.Marshal(config)
		if err != nil {
			t.Fatal(err)
		}
		reread, err := configs.Parse("again", again)
		if err != nil {
			t.Fatalf("%v\n%s", err, again)
		}
		if diff := cmp.Diff(config, reread, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("does not survive writing and reading:\n%s", diff)
		}
	})
}

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func ExampleParse() {
	_, err := configs.Parse("/etc/referee/config.toml", []byte("version = 1\n[log]\ncolour = \"debug\"\n"))
	fmt.Println(err)
	// Output: /etc/referee/config.toml:3:1: unknown key log.colour
}

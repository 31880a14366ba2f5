package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"

	"github.com/referee-cri/referee/configs"
	"github.com/referee-cri/referee/negotiate"
	"github.com/referee-cri/referee/negotiate/policy"
)

// referee runs the command line as main does.
func referee(t *testing.T, config string, args ...string) (string, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	root := rootCommand()
	root.SetArgs(append([]string{"--config", path}, args...))
	root.SetOut(&out)
	err := root.ExecuteContext(t.Context())
	return out.String(), err
}

func TestConfigCheck(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		config string
		args   []string
		want   []string // lines, or beginnings of them
		err    string
	}{
		"shipped file": {string(configs.DefaultTOML), nil, []string{"OK: 0 policy blocks with 0 patterns, 0 trust stores, 0 patterns disabled"}, ""},
		"warnings": {
			"version = 1\n[[policy]]\nformats = \"none\"\nmin_size = \"1B\"\n", nil,
			[]string{"warning: policy[0].formats: no form is allowed, which leaves no meaning to min_size", "OK: 1 policy block with 1 pattern, 0 trust stores, 0 patterns disabled; 1 warning"},
			"",
		},
		"errors": {
			"version = 1\n[[policy]]\nmatch = [\"r.example/a\"]\nrequire_signature = true\n[[policy]]\nmatch = [\"r.example/a\"]\n", nil,
			[]string{"error: policy[0].require_signature: nobody", `error: policy[1].match[0]: "r.example/a" stands in policy[0]`},
			"check configuration: 2 errors",
		},
		"invalid values": {
			"version = 1\n[log]\nlevel = \"loud\"\n", nil,
			[]string{"error: log.level: must be one of"},
			"check configuration: 1 error",
		},
		"invalid key": {
			"version = 1\n[registry]\nlegacy_oras = []\n", nil,
			[]string{"error: /", ""},
			"check configuration: 1 error",
		},
		"trust store without files": {
			"version = 1\n[[policy]]\nrequire_signature = true\ntrust = [\"a\", \"b\"]\n[[trust]]\nname = \"a\"\ntype = \"notation\"\npolicy_file = \"/absent/p\"\ntrust_store = \"/absent/t\"\n" +
				"[[trust]]\nname = \"b\"\ntype = \"sigstore\"\ntrusted_root = \"/absent/r\"\n", nil,
			[]string{"error: trust[0]: load trust store a: ", "error: trust[1]: load trust store b: "},
			"check configuration: 2 errors",
		},
		"credential providers without files": {
			"version = 1\n[registry]\ncredential_provider_config = \"/absent/c\"\ncredential_provider_bin_dir = \"/absent/b\"\n", nil,
			[]string{"warning: registry.credential_provider_config: ", "OK: "},
			"",
		},
		"reference": {
			"version = 1\ndisabled = [\"docker.io/library/redis:*\"]\n[[policy]]\nmatch = [\"docker.io/library/*\"]\nformats = [\"disk\", \"overlaybd\"]\nmin_size = \"1MiB\"\n",
			[]string{"redis"},
			[]string{
				"OK: ", "", "docker.io/library/redis:latest",
				`  disabled             by "docker.io/library/redis:*"`,
				`  policy               policy[0], by "docker.io/library/*"`,
				"  formats              disk, overlaybd",
				"  min_size             1MiB",
				"  require_signature    false",
				"  legacy_oras          off",
				"  foreign_filesystems  allow",
			},
			"",
		},
		"reference without a block": {
			"version = 1\n",
			[]string{"registry.example/app@sha256:" + strings.Repeat("0", 64)},
			[]string{
				"OK: ", "", "registry.example/app@sha256:", "  policy               built in", "  formats              overlaybd", "  min_size             8MiB",
				"  require_signature    false", "  legacy_oras          off", "  foreign_filesystems  allow",
			},
			"",
		},
		"bad reference": {"version = 1\n", []string{"UPPER"}, nil, "parse reference UPPER: "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out, err := referee(t, tc.config, append([]string{"config", "check"}, tc.args...)...)
			if got := fmt.Sprint(err); err != nil && (tc.err == "" || !strings.HasPrefix(got, tc.err)) || err == nil && tc.err != "" {
				t.Errorf("error %v, want %q", err, tc.err)
			}
			lines := strings.Split(out, "\n")
			for i, want := range tc.want {
				if i >= len(lines) || !strings.HasPrefix(lines[i], want) {
					t.Fatalf("line %d is not %q:\n%s", i+1, want, out)
				}
			}
			if extra := len(lines) - 1 - len(tc.want); extra > 0 {
				t.Errorf("%d more lines than wanted:\n%s", extra, out)
			}
		})
	}
}

func TestConfigCheckWritesJSON(t *testing.T) {
	t.Parallel()
	out, err := referee(t, "version = 1\n[[policy]]\nmatch = [\"r.example/**\"]\nformats = \"none\"\ntrust = [\"absent\"]\n", "config", "check", "--output", "json")
	if err == nil {
		t.Error("no error")
	}
	var got checked
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	want := checked{Findings: []policy.Finding{{Severity: policy.Error, Key: "policy[0].trust[0]", Problem: `must be the name of a [[trust]] block, is "absent"`}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	out, err = referee(t, "version = 1\n[[policy]]\nmatch = [\"r.example/**\"]\nformats = \"none\"\n", "config", "check", "--output", "json", "r.example/a:1")
	if err != nil {
		t.Fatal(err)
	}
	got = checked{}
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	block := 0
	want = checked{OK: true, Policies: 1, Patterns: 1, Findings: []policy.Finding{}, Holds: &holds{
		Reference: "r.example/a:1", Block: &block, Pattern: "r.example/**", Formats: []string{}, MinSize: 8 << 20, Trust: []string{}, LegacyORAS: "off", ForeignFilesystems: "allow",
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestPolicyOfTheConfiguration(t *testing.T) {
	t.Parallel()
	config, err := configs.Parse("test", []byte(`version = 1
[[policy]]
match = ["r.example/all/**"]
formats = ["soci", "overlaybd"]
min_size = "0B"
require_signature = true
trust = ["ci"]
legacy_oras = "auto"
foreign_filesystems = "signed-only"
[[policy]]
match = ["r.example/none"]
formats = "none"
legacy_oras = "on"
foreign_filesystems = "deny"
[[trust]]
name = "ci"
type = "sigstore"
keys = ["/absent"]
`))
	if err != nil {
		t.Fatal(err)
	}
	p := newPolicy(config, zap.NewNop())
	all, none, builtin := p.Rules("r.example/all/a"), p.Rules("r.example/none"), p.Rules("other.example/a")
	if len(all.Verifiers) != 1 || all.Verifiers[0].Name() != "ci" {
		t.Fatalf("verifiers %v: a trust store that cannot be loaded must stay in force", all.Verifiers)
	}
	got := []negotiate.Rules{*all, *none, *builtin}
	got[0].Verifiers = nil
	want := []negotiate.Rules{
		{
			Name: "r.example/all/**", Formats: []string{"soci", "overlaybd"}, RequireSignature: true,
			LegacyORAS: negotiate.LegacyAuto, ForeignFilesystems: negotiate.ForeignSignedOnly,
		},
		{Name: "r.example/none", Formats: []string{}, MinSize: 8 << 20, LegacyORAS: negotiate.LegacyOn, ForeignFilesystems: negotiate.ForeignDeny},
		{MinSize: 8 << 20},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("rules (-want +got):\n%s", diff)
	}
}

// Every format that is recognised can be written in a policy, and every one that
// can be read is recognised.
func TestFormatNames(t *testing.T) {
	t.Parallel()
	var recognised []string
	for _, r := range negotiate.Recognisers() {
		recognised = append(recognised, r.Format())
		config := configs.Default()
		config.Policy = []configs.Policy{{Formats: &configs.FormatList{r.Format()}}}
		if err := config.Validate(); err != nil {
			t.Errorf("format %s cannot be listed: %v", r.Format(), err)
		}
	}
	for format := range formats(nil) {
		if !strings.Contains(" "+strings.Join(recognised, " ")+" ", " "+format+" ") {
			t.Errorf("format %s can be read, and nothing recognises it", format)
		}
	}
	if got := surroundings(configs.Default()).InPlace; !cmp.Equal(got, []string{"estargz", "zstdchunked"}) {
		t.Errorf("formats in place only: %v", got)
	}
}

package configs_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/referee-cri/referee/configs"
)

// What the shipped file shows of blocks can be copied as it is.
func TestShippedExamplesAreValid(t *testing.T) {
	t.Parallel()
	text := strings.Builder{}
	text.WriteString("version = 1\n")
	_, examples, found := strings.Cut(string(configs.DefaultTOML), "#   [[policy]]")
	if !found {
		t.Fatal("config.toml shows no [[policy]] block")
	}
	for line := range strings.Lines("#   [[policy]]" + examples) {
		if example, is := strings.CutPrefix(line, "#   "); is {
			text.WriteString(example)
		}
	}
	got, err := configs.Parse("examples", []byte(text.String()))
	if err != nil {
		t.Fatalf("%v\n%s", err, text.String())
	}
	yes, eight := true, configs.Size{Bytes: 8 * configs.MiB}
	want := configs.Default()
	want.Policy = []configs.Policy{{
		Match: []string{"registry.example/team/**"}, Formats: &configs.FormatList{"overlaybd", "soci"}, MinSize: &eight,
		RequireSignature: true, Trust: []string{"release", "ci"}, LegacyORAS: "off", ForeignFilesystems: "signed-only",
	}}
	want.Trust = []configs.Trust{
		{
			Name: "release", Type: "notation", PolicyFile: "/etc/referee/trust/release/trustpolicy.json",
			TrustStore: "/etc/referee/trust/release/truststore", CRLDir: "/etc/referee/trust/release/crls",
		},
		{
			Name: "ci", Type: "sigstore", Keys: []string{"/etc/referee/trust/ci/cosign.pub"},
			TrustedRoot: "/etc/referee/trust/ci/trusted_root.json", RequireLog: &yes,
			Identities: []configs.Identity{
				{Issuer: "https://token.actions.githubusercontent.com", SubjectRegexp: `https://github\.com/example/.*`},
				{IssuerRegexp: `https://.*\.example`, Subject: "release@example"},
			},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("examples (-want +got):\n%s", diff)
	}
}

func TestPolicyBlocksKeepWhatTheyDoNotSay(t *testing.T) {
	t.Parallel()
	config, err := configs.Parse("blocks", []byte(`version = 1
[[policy]]
formats = "none"
[[policy]]
match = ["registry.example/**"]
formats = []
min_size = "0B"
[[policy]]
match = ["localhost:5000/app", "*:5000/**"]
`))
	if err != nil {
		t.Fatal(err)
	}
	want := []configs.Policy{
		{Formats: &configs.FormatList{}},
		{Match: []string{"registry.example/**"}, Formats: &configs.FormatList{}, MinSize: &configs.Size{}},
		{Match: []string{"localhost:5000/app", "*:5000/**"}},
	}
	if diff := cmp.Diff(want, config.Policy); diff != "" {
		t.Errorf("blocks (-want +got):\n%s", diff)
	}
	for i, want := range []int64{8 * configs.MiB, 0, 8 * configs.MiB} {
		if got := config.Policy[i].MinBytes(); got != want {
			t.Errorf("block %d: %d bytes at least, want %d", i, got, want)
		}
	}
}

func TestValidateReportsEveryKeyOfBlocks(t *testing.T) {
	t.Parallel()
	no := false
	bad := configs.Default()
	bad.Policy = []configs.Policy{
		{Match: []string{}},
		{Match: []string{
			"registry.example/app:1", "registry.example/app@sha256:0", "localhost:5000", "team/*", "", "**:5000/fine", strings.Repeat("r.", 300),
		}},
		{
			Formats: &configs.FormatList{"overlaybd", "squashfs", "overlaybd"}, Trust: []string{"absent", "key", "key"},
			LegacyORAS: "perhaps", ForeignFilesystems: "no",
		},
	}
	bad.Trust = []configs.Trust{
		{Name: "key", Type: "sigstore", Keys: []string{"relative"}, TrustedRoot: "relative", PolicyFile: "/p", TrustStore: "/t", CRLDir: "/c"},
		{Name: "key", Type: "notation", PolicyFile: "/p", Keys: []string{"/k"}, RequireLog: &no, RequireTimestamp: true, CheckReference: true},
		{Name: "with space", Type: "pgp"},
		{Type: "notation", PolicyFile: "relative", TrustStore: "/t", CRLDir: "relative"},
	}
	expectProblems(t, bad.Validate(), []string{
		"policy[0].match", "policy[1].match[0]", "policy[1].match[1]", "policy[1].match[2]", "policy[1].match[3]", "policy[1].match[4]", "policy[1].match[6]",
		"policy[2].formats[1]", "policy[2].formats[2]", "policy[2].trust[0]", "policy[2].trust[2]", "policy[2].legacy_oras", "policy[2].foreign_filesystems",
		"trust[0].policy_file", "trust[0].trust_store", "trust[0].crl_dir", "trust[0].keys[0]", "trust[0].trusted_root",
		"trust[1].name", "trust[1].keys", "trust[1].require_log", "trust[1].require_timestamp", "trust[1].check_reference", "trust[1].trust_store",
		"trust[2].name", "trust[2].type", "trust[3].name", "trust[3].policy_file", "trust[3].crl_dir",
	})
}

func TestCredentialProvidersNeedBothPaths(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		config, dir string
		want        string // the key that is missing
	}{
		"none":      {"", "", ""},
		"both":      {"/c", "/d", ""},
		"no dir":    {"/c", "", "registry.credential_provider_bin_dir"},
		"no config": {"", "/d", "registry.credential_provider_config"},
	} {
		config := configs.Default()
		config.Registry.CredentialProviderConfig, config.Registry.CredentialProviderBinDir = tc.config, tc.dir
		err := config.Validate()
		if (err == nil) != (tc.want == "") || err != nil && !strings.HasPrefix(err.Error(), tc.want+": ") {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
}

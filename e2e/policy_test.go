package e2e_test

import (
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/referee-cri/referee/e2e/node"
	"github.com/referee-cri/referee/fallback"
	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/internal/regtest"
	"github.com/referee-cri/referee/negotiate"
	"github.com/referee-cri/referee/negotiate/publish/sigstore"
	"github.com/referee-cri/referee/negotiate/trust/notation/notarytest"
)

// policies are blocks of which several match most repositories below; %q is a file
// with a public key. What a block leaves out is not taken from a less specific one.
const policies = `[[policy]]
match = ["127.0.0.1:*/team/**"]
formats = "none"
[[policy]]
match = ["127.0.0.1:*/team/app*"]
min_size = "0B"
[[policy]]
match = ["127.0.0.1:*/team/app-soci"]
formats = ["soci"]
min_size = "0B"
[[policy]]
match = ["127.0.0.1:*/large/**"]
min_size = "1MiB"
[[policy]]
match = ["127.0.0.1:*/default/**"]
legacy_oras = "on"
[[policy]]
match = ["127.0.0.1:*/own/**"]
min_size = "0B"
foreign_filesystems = "deny"
[[policy]]
match = ["127.0.0.1:*/signed/**"]
min_size = "0B"
foreign_filesystems = "signed-only"
trust = ["ci"]
[[policy]]
match = ["127.0.0.1:*/modern/**"]
min_size = "0B"
[[trust]]
name = "ci"
type = "sigstore"
keys = [%q]
`

// shop is a node with policies, and images that have no layer in common.
type shop struct {
	*bed
	seed int64
}

// push puts an image of two layers, of so many bytes each, and attaches a form.
func (s *shop) push(t *testing.T, registry *regtest.Registry, repository string, size int, flags ...string) (ref string) {
	t.Helper()
	s.seed++
	if _, err := registry.PutImage(repository, "1", regtest.ImageSpec{LayerSize: size, Seed: s.seed}); err != nil {
		t.Fatal(err)
	}
	ref = registry.Ref(repository, "1")
	s.command.run(t, append([]string{"convert", ref}, flags...)...)
	registry.ResetRequests()
	return ref
}

// expect pulls, and compares what the command line says then.
func (s *shop) expect(t *testing.T, ref, block string, code reason.Code, says string) fallback.Entry {
	t.Helper()
	started := time.Now()
	if _, err := s.lazy.Pull(t.Context(), ref, nil); err != nil {
		t.Fatal(err)
	}
	entry := s.explained(t, ref, started)
	if (entry.Outcome == fallback.Lazy) != (code == reason.None) || entry.Reason != code || !strings.Contains(entry.Sentence, says) {
		t.Errorf("pull was %s, %s: %q; want %q: %q", entry.Outcome, entry.Reason, entry.Sentence, code, says)
	}
	if entry.Policy != block {
		t.Errorf("policy %q held, want %q", entry.Policy, block)
	}
	if code == reason.None {
		s.expectReleased(t, ref)
		return entry
	}
	s.expectNothingRemains(t)
	if err := s.lazy.Remove(t.Context(), ref); err != nil {
		t.Error(err)
	}
	return entry
}

// asked counts Referee's requests for paths with part in them.
func asked(registry *regtest.Registry, part string) int {
	n, _ := registry.Count(func(e regtest.Entry) bool { return byReferee(e) && strings.Contains(e.Path, part) })
	return n
}

// TestPolicy pulls images for which different blocks hold.
func TestPolicy(t *testing.T) {
	t.Parallel()
	publisher := newParty(t, "publisher")
	s := &shop{bed: newBed(t, node.Options{}, fmt.Sprintf(policies, publisher.public))}
	cosign := cosignScheme(negotiate.SignatureBundle, sigstore.SchemeBundle)
	const small, large = 4 << 10, 4200 << 10
	for _, tc := range []struct {
		repository string
		size       int
		flags      []string // of convert
		block      string
		reason     reason.Code
		says       string
		silent     bool // nobody asks what is attached
	}{
		{"team/other", small, nil, "127.0.0.1:*/team/**", reason.Disabled, "allows no form", true},
		{"team/app", small, nil, "127.0.0.1:*/team/app*", reason.None, "", false},
		{"team/app-soci", small, nil, "127.0.0.1:*/team/app-soci", reason.FormatNotAllowed, "does not list overlaybd", false},
		{"large/small", small, nil, "127.0.0.1:*/large/**", reason.TooSmall, "wants at least 1048576", false},
		{"large/large", large, nil, "127.0.0.1:*/large/**", reason.None, "", false},
		{"default/small", small, nil, "127.0.0.1:*/default/**", reason.TooSmall, "wants at least 8388608", false},
		{"default/large", large, nil, "127.0.0.1:*/default/**", reason.None, "", false},
		{"own/app", small, nil, "127.0.0.1:*/own/**", reason.ForeignFilesystem, "overlaybd is one", false},
		{"own/signed", small, cosign.by(publisher), "127.0.0.1:*/own/**", reason.ForeignFilesystem, "overlaybd is one", false},
		{"signed/not", small, nil, "127.0.0.1:*/signed/**", reason.Unsigned, "wants a signature", false},
		{"signed/app", small, cosign.by(publisher), "127.0.0.1:*/signed/**", reason.None, "", false},
		{"elsewhere/app", small, nil, "**", reason.None, "", false},
	} {
		t.Run(tc.repository, func(t *testing.T) {
			ref := s.push(t, s.registry, tc.repository, tc.size, tc.flags...)
			holds := s.command.run(t, "config", "check", ref)
			if !strings.Contains(holds, fmt.Sprintf("%q", tc.block)) {
				t.Errorf("config check does not name %s:\n%s", tc.block, holds)
			}
			entry := s.expect(t, ref, tc.block, tc.reason, tc.says)
			if tc.silent && asked(s.registry, "/referrers/") > 0 {
				t.Error("Referee asked what is attached")
			}
			if signed := strings.Contains(entry.Signer, "(ci, sigstore-bundle)"); signed != (tc.repository == "signed/app") {
				t.Errorf("signed by %q", entry.Signer)
			}
		})
	}
	t.Run("legacy endpoints", func(t *testing.T) {
		old := regtest.New(t, regtest.Options{})
		old.Configure(func(f *regtest.Features) { f.Referrers, f.ORASv2 = false, true })
		ref := s.push(t, old, "modern/app", small, "--legacy-oras")
		s.expect(t, ref, "127.0.0.1:*/modern/**", reason.NoReferrers, "")
		if asked(old, "_oras") > 0 {
			t.Error("Referee asked an endpoint that its policy does not mention")
		}
		ref = s.push(t, old, "default/old", large, "--legacy-oras")
		if entry := s.expect(t, ref, "127.0.0.1:*/default/**", reason.None, ""); entry.Found != negotiate.FoundORASv2 {
			t.Errorf("found by %s", entry.Found)
		}
	})
	t.Run("no block at all", func(t *testing.T) {
		s.reconfigure(t, strings.Replace(strings.TrimSuffix(s.text, anyImage), fmt.Sprintf(policies, publisher.public), "", 1))
		s.expect(t, s.push(t, s.registry, "bare/small", small), "", reason.TooSmall, "the policy wants at least 8388608")
		s.expect(t, s.push(t, s.registry, "bare/large", large), "", reason.None, "")
	})
}

// TestContradictions has `config check` look at a file that cannot mean what it says.
func TestContradictions(t *testing.T) {
	t.Parallel()
	c := newCommand(t, filepath.Join(t.TempDir(), "config.toml"))
	for name, tc := range map[string]struct {
		text string
		keys []string
		ok   bool
	}{
		"nobody is trusted": {"[[policy]]\nrequire_signature = true\n", []string{"error: policy[0].require_signature"}, false},
		"named twice":       {"[[policy]]\nmatch = [\"a.test/**\"]\n[[policy]]\nmatch = [\"a.test/**\"]\n", []string{"error: policy[1].match[0]"}, false},
		"unknown key":       {"[[policy]]\nmin_sice = \"1B\"\n", []string{"policy.min_sice"}, false},
		"wrong values":      {"[[policy]]\nformats = [\"zip\"]\n[cache]\nmax_size = \"0B\"\n", []string{"policy[0].formats", "cache.max_size"}, false},
		"trust without files": {
			"[[policy]]\nrequire_signature = true\ntrust = [\"ci\"]\n[[trust]]\nname = \"ci\"\ntype = \"sigstore\"\nkeys = [\"/nonexistent/key\"]\n",
			[]string{"error: trust[0]", "/nonexistent/key"},
			false,
		},
		"only odd": {"[[policy]]\nformats = \"none\"\nmin_size = \"1MiB\"\n", []string{"warning: policy[0].formats", "OK"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			notarytest.Write(t, c.config, []byte("version = 1\n"+tc.text))
			out, err := c.try(t, "config", "check")
			var exit *exec.ExitError
			if tc.ok && err != nil || !tc.ok && (!errors.As(err, &exit) || exit.ExitCode() != 1) {
				t.Errorf("exit: %v", err)
			}
			for _, key := range tc.keys {
				if !strings.Contains(out, key) {
					t.Errorf("does not say %q:\n%s", key, out)
				}
			}
		})
	}
}

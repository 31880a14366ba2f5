package sigstore_test

import (
	"crypto/elliptic"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/referee-cri/referee/internal/regtest"
	"github.com/referee-cri/referee/negotiate"
	"github.com/referee-cri/referee/negotiate/publish/sigstore"
)

// TestCosignAgrees signs and has cosign verify, then has cosign sign and verifies.
func TestCosignAgrees(t *testing.T) {
	t.Parallel()
	binary, err := exec.LookPath("cosign")
	if err != nil {
		t.Skipf("cosign is not installed: %v", err)
	}
	private, public := pair(t, newKey(t, elliptic.P256()), []byte("secret"))
	quiet := filepath.Join(t.TempDir(), "signing_config.json") // no log, no timestamp authority
	if err := os.WriteFile(quiet, []byte(`{"mediaType":"application/vnd.dev.sigstore.signingconfig.v0.2+json"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	home := t.TempDir() // without --offline cosign asks for Sigstore's trusted root first
	run := func(args ...string) error {
		cmd := exec.CommandContext(t.Context(), binary, args...)
		cmd.Env = []string{"HOME=" + home, "COSIGN_PASSWORD=secret", "PATH=" + os.Getenv("PATH")}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Logf("cosign %q: %s", args, out)
		}
		return err
	}
	for name, tc := range map[string]struct {
		scheme    sigstore.Scheme
		referrers bool
		kind      negotiate.SignatureKind
		sign      []string // how cosign is told to use the scheme
		verify    []string
	}{
		"bundle": {
			sigstore.SchemeBundle, true, negotiate.SignatureBundle,
			[]string{"--signing-config=" + quiet},
			nil,
		},
		"bundle, no referrers API": {
			sigstore.SchemeBundle, false, negotiate.SignatureBundle,
			[]string{"--signing-config=" + quiet},
			nil,
		},
		"tag": {
			sigstore.SchemeTag, true, negotiate.SignatureCosign,
			[]string{"--new-bundle-format=false", "--use-signing-config=false", "--tlog-upload=false"},
			[]string{"--new-bundle-format=false"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reg := regtest.New(t, regtest.Options{Features: &regtest.Features{Referrers: tc.referrers}})
			form := pushForm(t, reg)
			ref := reg.Ref("app", form.Digest.String())
			verify := append([]string{"verify", "--key=" + public, "--insecure-ignore-tlog", "--allow-http-registry", "--offline", ref}, tc.verify...)
			if run(verify...) == nil {
				t.Fatal("cosign verifies what nobody has signed")
			}
			if _, err := sigstore.Sign(t.Context(), open(t, reg), form, sigstore.Options{KeyFile: private, Password: []byte("secret"), Scheme: tc.scheme}); err != nil {
				t.Fatal(err)
			}
			if err := run(verify...); err != nil {
				t.Errorf("cosign does not verify our signature: %v", err)
			}

			reg = regtest.New(t, regtest.Options{Features: &regtest.Features{Referrers: tc.referrers}})
			form = pushForm(t, reg)
			ref = reg.Ref("app", form.Digest.String())
			if err := run(append([]string{"sign", "--yes", "--key=" + private, "--allow-http-registry", ref}, tc.sign...)...); err != nil {
				t.Fatalf("cosign does not sign: %v", err)
			}
			p := plan(t, reg, public)
			if !p.Lazy() || p.Chosen.Signer == nil || p.Chosen.Signer.Kind != tc.kind {
				t.Errorf("we do not verify cosign's signature: %s: %s", p.Reason, p.Detail)
			}
		})
	}
}

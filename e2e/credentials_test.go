package e2e_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/referee-cri/referee/e2e/node"
	"github.com/referee-cri/referee/fallback"
	"github.com/referee-cri/referee/internal/regtest"
	"github.com/referee-cri/referee/internal/testdata"
)

// TestCredentialsChangeWhileReading: the request's credentials stop counting while
// a container reads; those of the kubelet's plugin take their place.
func TestCredentialsChangeWhileReading(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	config := filepath.Join(dir, "providers.yaml")
	b := newBed(t, node.Options{}, "[reads]\ngive_up_after = \"5s\"\n",
		fmt.Sprintf("credential_provider_config = %q\ncredential_provider_bin_dir = %q", config, dir))
	if _, err := b.registry.LoadLayout("tiny", filepath.Join(testdata.Dir(t, "reference"), "tiny")); err != nil {
		t.Fatal(err)
	}
	write := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil { //nolint:gosec // a program
			t.Fatal(err)
		}
	}
	write(filepath.Join(dir, "plugin"), fmt.Sprintf(`#!/bin/sh
cat > /dev/null
echo '{"kind":"CredentialProviderResponse","apiVersion":"credentialprovider.kubelet.k8s.io/v1","cacheKeyType":"Registry","auth":{"%s":{"username":"kubelet","password":"hunter-new"}}}'
`, b.registry.Host()))
	write(config, fmt.Sprintf(`apiVersion: kubelet.config.k8s.io/v1
kind: CredentialProviderConfig
providers:
- name: plugin
  apiVersion: credentialprovider.kubelet.k8s.io/v1
  matchImages: ["%s"]
  defaultCacheDuration: 1m
`, b.registry.Host()))

	b.registry.SetAuth(regtest.Auth{Kind: regtest.AuthToken, Username: "kubelet", Password: "hunter-old"})
	ref, started := b.registry.Ref("tiny", "tiny"), time.Now()
	if _, err := b.lazy.Pull(t.Context(), ref, &runtime.AuthConfig{Username: "kubelet", Password: "hunter-old"}); err != nil {
		t.Fatal(err)
	}
	if entry := b.explain(t, ref, started); entry.Outcome != fallback.Lazy {
		t.Fatalf("the pull was %s: %s: %s", entry.Outcome, entry.Reason, entry.Sentence)
	}
	container := start(t, b.lazy, ref, "/bin/busybox", "sleep", "1000")
	b.registry.SetAuth(regtest.Auth{Kind: regtest.AuthToken, Username: "kubelet", Password: "hunter-new"})
	b.registry.RevokeTokens()
	b.registry.ResetRequests()
	if _, err := container.Output(t.Context(), "/bin/busybox", "md5sum", "/data/random.bin"); err != nil {
		t.Errorf("after the credentials changed: %v", err)
	}
	if n, _ := b.registry.Count(func(e regtest.Entry) bool { return strings.Contains(e.Path, "/blobs/") && e.Status == 206 }); n == 0 {
		t.Error("nothing was read from the registry with the new credentials")
	}
	journal := b.command.run(t, "explain", ref, "--output", "json")
	for _, where := range []string{b.referee.Log(), journal} {
		if strings.Contains(where, "hunter") {
			t.Error("a password was written down")
		}
	}
	removePod(t, container)
}

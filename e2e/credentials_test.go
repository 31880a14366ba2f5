package e2e_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/referee-cri/referee/e2e/node"
	"github.com/referee-cri/referee/fallback"
	"github.com/referee-cri/referee/internal/regtest"
	"github.com/referee-cri/referee/internal/testdata"
)

// wallet is where a node finds credentials that no pull brings: the kubelet's
// plugin, and a docker config.
type wallet struct {
	dir   string
	image string // the host of the images
}

func newWallet(t *testing.T, image string) *wallet {
	t.Helper()
	w := &wallet{dir: t.TempDir(), image: image}
	w.write(t, "plugin", "#!/bin/sh\ncat > /dev/null\necho asked >> "+w.path("asked")+"\ncat "+w.path("answer")+"\n")
	w.write(t, "providers.yaml", fmt.Sprintf(`apiVersion: kubelet.config.k8s.io/v1
kind: CredentialProviderConfig
providers:
- name: plugin
  apiVersion: credentialprovider.kubelet.k8s.io/v1
  matchImages: [%q]
  defaultCacheDuration: 1s
`, image))
	w.plugin(t, "")
	return w
}

// access is what the daemon's configuration says of it.
func (w *wallet) access() string {
	return fmt.Sprintf("credential_provider_config = %q\ncredential_provider_bin_dir = %q\ndocker_config = %q",
		w.path("providers.yaml"), w.dir, w.path("docker.json"))
}

func (w *wallet) path(name string) string { return filepath.Join(w.dir, name) }

// write replaces a file at once.
func (w *wallet) write(t *testing.T, name, text string) {
	t.Helper()
	err := os.WriteFile(w.path(name+".new"), []byte(text), 0o755) //nolint:gosec // a program, among others
	if err == nil {
		err = os.Rename(w.path(name+".new"), w.path(name))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// plugin sets what the plugin answers; an empty password: nothing.
func (w *wallet) plugin(t *testing.T, password string) {
	t.Helper()
	auth := "{}"
	if password != "" {
		auth = fmt.Sprintf(`{%q:{"username":"kubelet","password":%q}}`, w.image, password)
	}
	w.write(t, "answer", `{"kind":"CredentialProviderResponse","apiVersion":"credentialprovider.kubelet.k8s.io/v1","cacheKeyType":"Registry","auth":`+auth+`}`)
}

// docker sets the docker config.
func (w *wallet) docker(t *testing.T, host, password string) {
	t.Helper()
	w.write(t, "docker.json", fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, host, basic(password)))
}

func basic(password string) string {
	return base64.StdEncoding.EncodeToString([]byte("kubelet:" + password))
}

// runs counts how often the plugin was asked.
func (w *wallet) runs(t *testing.T) int {
	t.Helper()
	asked, err := os.ReadFile(w.path("asked"))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return strings.Count(string(asked), "asked")
}

// vault is a registry whose one password changes, and all that was ever secret.
type vault struct {
	*regtest.Registry

	mu      sync.Mutex
	secrets []string // passwords, as they are and as they travel, and tokens
}

func newVault(registry *regtest.Registry) *vault {
	v := &vault{Registry: registry}
	v.Inject(regtest.Fault{Match: regtest.Path("/token"), Rewrite: func(body []byte) []byte {
		var answer struct{ Token string }
		if json.Unmarshal(body, &answer) == nil && answer.Token != "" {
			v.remember(answer.Token)
		}
		return body
	}})
	return v
}

func (v *vault) remember(secrets ...string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.secrets = append(v.secrets, secrets...)
}

// lock changes the password. What was let in before no longer is.
func (v *vault) lock(password string) {
	v.remember(password, basic(password))
	v.SetAuth(regtest.Auth{Kind: regtest.AuthToken, Username: "kubelet", Password: password})
	v.RevokeTokens()
}

// TestCredentialSources reads on and on while the registry's password changes:
// first those of the pull count, then the plugin's, later ones of the plugin, those
// of the docker config; then a new daemon knows them, too.
func TestCredentialSources(t *testing.T) {
	t.Parallel()
	const host = "private.test"
	w := newWallet(t, host)
	b := newBed(t, node.Options{}, "", w.access())
	v := newVault(b.registry)
	layout := filepath.Join(testdata.Dir(t, "reference"), "tiny")
	random := make([]byte, 20<<20)
	_, _ = rand.NewChaCha8([32]byte{}).Read(random) // never fails
	b.command.run(t, "convert", b.pushOwn(t, layout, 4, "big", "1", string(random)), "--algorithm", "lz4")
	if err := b.PointHost(host, node.Endpoint{URL: b.registry.URL()}); err != nil {
		t.Fatal(err)
	}
	ref := host + "/big:1"
	v.lock("horse-first")

	t.Run("the pull brings none", func(t *testing.T) {
		w.plugin(t, "horse-first")
		_, want := b.CRI().Pull(t.Context(), ref, nil)
		started := time.Now()
		_, got := b.lazy.Pull(t.Context(), ref, nil)
		if entry := b.explain(t, ref, started); entry.Outcome != fallback.Lazy || entry.Forward.Error == "" {
			t.Errorf("journal: %+v", entry) // what the plugin says is good for a form, yet containerd decides
		}
		if want == nil || got == nil || got.Error() != want.Error() {
			t.Errorf("without credentials a pull fails with\n%v, through Referee with\n%v", want, got)
		}
		if image, err := b.lazy.ImageStatus(t.Context(), ref); err != nil || image != nil {
			t.Errorf("the node has %v, %v", image, err)
		}
		b.expectNothingRemains(t)
		w.plugin(t, "")
	})

	started := time.Now()
	if _, err := b.lazy.Pull(t.Context(), ref, &runtime.AuthConfig{Username: "kubelet", Password: "horse-first"}); err != nil {
		t.Fatal(err)
	}
	if entry := b.explain(t, ref, started); entry.Outcome != fallback.Lazy {
		t.Fatalf("the pull was %s: %s: %s", entry.Outcome, entry.Reason, entry.Sentence)
	}
	container := start(t, b.lazy, ref, "/bin/busybox", "sleep", "1000")
	at := 0 // MiB
	read := func(t *testing.T) {
		t.Helper()
		const step = 4 // beyond what was read ahead
		b.registry.ResetRequests()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		sum, err := container.Output(ctx, "/bin/busybox", "sh", "-c", fmt.Sprintf("dd if=/own bs=1048576 skip=%d count=1 2>/dev/null | sha256sum", at))
		if want := digest.FromBytes(random[at<<20 : (at+1)<<20]).Encoded(); err != nil || !strings.HasPrefix(sum, want) {
			t.Fatalf("MiB %d reads as %q, %v; want %s", at, sum, err, want)
		}
		if asked(b.registry, "/blobs/") == 0 {
			t.Errorf("MiB %d was read without a request: nothing was tested", at)
		}
		at += step
	}
	t.Run("the pull's", read)
	t.Run("the plugin's", func(t *testing.T) {
		before := w.runs(t)
		w.plugin(t, "horse-second")
		v.lock("horse-second")
		read(t)
		if w.runs(t) == before {
			t.Error("the plugin was not asked")
		}
	})
	t.Run("the plugin's next", func(t *testing.T) {
		w.plugin(t, "horse-third")
		v.lock("horse-third")
		read(t)
	})
	t.Run("the docker config's", func(t *testing.T) {
		w.plugin(t, "")
		w.docker(t, b.registry.Host(), "horse-fourth")
		v.lock("horse-fourth")
		read(t)
	})
	t.Run("a new daemon's", func(t *testing.T) {
		b.end(t, b.referee.Stop)
		b.begin(t)
		read(t)
	})
	v.expectUntold(t, b, ref)
}

// expectUntold looks for secrets in everything that the daemon writes and says.
func (v *vault) expectUntold(t *testing.T, b *bed, ref string) {
	t.Helper()
	places := map[string]string{
		"the log":           b.referee.Log(),
		"explain":           b.command.run(t, "explain", ref),
		"explain, as JSON":  b.command.run(t, "explain", ref, "--output", "json"),
		"inspect":           b.command.run(t, "inspect", ref),
		"config dump":       b.command.run(t, "config", "dump"),
		"config check":      b.command.run(t, "config", "check", ref),
		"the configuration": b.text,
	}
	err := filepath.WalkDir(filepath.Join(b.Dir(), "referee-root"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path)
		places[path] = string(content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.secrets) < 12 || len(places) < 9 {
		t.Fatalf("%d secrets in %d places: nothing was tested", len(v.secrets), len(places))
	}
	for place, text := range places {
		for _, secret := range v.secrets {
			if strings.Contains(text, secret) {
				t.Errorf("%s holds the secret %q", place, secret)
			}
		}
	}
}

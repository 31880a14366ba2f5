package e2e_test

import (
	"encoding/base64"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/referee-cri/referee/e2e/node"
	"github.com/referee-cri/referee/fallback"
	"github.com/referee-cri/referee/internal/eventually"
	"github.com/referee-cri/referee/internal/regtest"
	"github.com/referee-cri/referee/internal/tracing/collectortest"
)

// Credentials that a pull brings, right and wrong.
const (
	rightPassword = "planted-right-password"
	wrongPassword = "planted-wrong-password"
	identityToken = "planted-identity-token"
)

// wiretap keeps what nobody may read of the requests that a registry gets.
type wiretap struct {
	mu   sync.Mutex
	seen map[string]bool
}

var signedQuery = regexp.MustCompile(`expires=\d+`)

func (w *wiretap) note(req *http.Request) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if scheme, credentials, found := strings.Cut(req.Header.Get("Authorization"), " "); found && credentials != "" {
		w.seen[credentials] = true
		w.seen[scheme+" "+credentials] = true
	}
	if query := signedQuery.FindString(req.URL.RawQuery); query != "" {
		w.seen[query] = true
	}
	return false
}

func (w *wiretap) values() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Sorted(maps.Keys(w.seen))
}

// TestSecretsStaySecret sends credentials the ways there are, to a registry that
// accepts, refuses, redirects to signed URLs and breaks down, and looks for them in
// everything that the daemon tells at level debug.
func TestSecretsStaySecret(t *testing.T) {
	c := collectortest.Run(t)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", c.HTTP)
	t.Setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=planted-collector-key")
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "100") // milliseconds
	address := freeAddress(t)
	b := newBed(t, node.Options{}, fmt.Sprintf("[metrics]\naddress = %q\n[reads]\ngive_up_after = \"2s\"\n", address))
	b.pushTiny(t)
	b.registry.Configure(func(f *regtest.Features) { f.RedirectBlobs = true })
	secrets := &wiretap{seen: map[string]bool{rightPassword: true, wrongPassword: true, identityToken: true, "planted-": true}}
	restore := b.registry.Inject(regtest.Fault{Match: secrets.note}) // sees every request, strikes none
	defer restore()
	ref := b.registry.Ref("tiny", "tiny")

	for name, auth := range map[string]*runtime.AuthConfig{
		"wrong":    {Username: "kubelet", Password: wrongPassword},
		"encoded":  {Auth: base64.StdEncoding.EncodeToString([]byte("kubelet:" + wrongPassword))},
		"identity": {IdentityToken: identityToken},
		"registry": {RegistryToken: "planted-registry-token"},
	} {
		for _, kind := range []regtest.AuthKind{regtest.AuthBasic, regtest.AuthToken} {
			b.registry.SetAuth(regtest.Auth{Kind: kind, Username: "kubelet", Password: rightPassword})
			if _, err := b.lazy.Pull(t.Context(), ref, auth); err == nil {
				t.Errorf("%s credentials served for %s", name, kind)
			}
		}
	}
	started := time.Now()
	if _, err := b.lazy.Pull(t.Context(), ref, &runtime.AuthConfig{Username: "kubelet", Password: rightPassword}); err != nil {
		t.Fatal(err)
	}
	if entry := b.explain(t, ref, started); entry.Outcome != fallback.Lazy {
		t.Fatalf("the pull was %s: %s: %s", entry.Outcome, entry.Reason, entry.Sentence)
	}
	container := start(t, b.lazy, ref, "/bin/busybox", "sleep", "1000")
	broken := b.registry.Inject(regtest.Fault{Match: regtest.Path("/"), Status: http.StatusForbidden, Body: []byte("denied")})
	if _, err := container.Output(t.Context(), "/bin/busybox", "md5sum", "/data/random.bin"); err == nil {
		t.Error("a read succeeded without a registry")
	}
	broken()
	cut := b.registry.Inject(regtest.Fault{Match: regtest.Path("/"), Drop: true})
	_, _ = container.Output(t.Context(), "/bin/busybox", "md5sum", "/data/random.bin") // fails, and what that makes is looked at
	cut()
	if err := unix.Kill(b.referee.PID(), unix.SIGUSR1); err != nil { // off
		t.Fatal(err)
	}
	eventually.True(t, "the signal changes the level", func() bool { return strings.HasPrefix(b.run(t, "log-level"), "info") })
	if said := b.run(t, "log-level", "debug"); !strings.HasPrefix(said, "debug (configured: debug)") {
		t.Errorf("log-level says %q", said)
	}
	eventually.True(t, "spans arrive", func() bool { return strings.Contains(c.Text(), "graft") })

	told := map[string]string{
		"log": b.referee.Log(), "spans": c.Text(), "status": b.run(t, "status", "--output", "json"),
		"explain": b.run(t, "explain", ref) + b.run(t, "explain", "--output", "json", ref),
	}
	var err error
	if _, told["metrics"], err = fetch(t.Context(), http.DefaultClient, "http://"+address+"/metrics"); err != nil {
		t.Fatal(err)
	}
	readSmallFiles(t, told, filepath.Join(b.Dir(), "referee-root"))
	values := secrets.values()
	if len(values) < 10 {
		t.Fatalf("only %d secrets crossed the wire: %v", len(values), values)
	}
	for where, text := range told {
		if text == "" {
			t.Errorf("%s tells nothing", where)
		}
		for _, secret := range values {
			if i := strings.Index(text, secret); i >= 0 {
				t.Errorf("%s tells %q: …%s…", where, secret, text[max(i-200, 0):min(i+100, len(text))])
			}
		}
	}
	removePod(t, container)
	b.expectReleased(t, ref)
}

// readSmallFiles adds what the daemon keeps on disk besides blobs.
func readSmallFiles(t *testing.T, told map[string]string, root string) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() || strings.HasSuffix(path, ".data") {
			return err
		}
		info, err := entry.Info()
		if err != nil || info.Size() == 0 || info.Size() > 1<<20 {
			return err
		}
		text, err := os.ReadFile(path)
		told[path] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

package credentialprovider_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/internal/credentialprovider"
	"github.com/referee-cri/referee/internal/eventually"
	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/internal/registry"
	"github.com/referee-cri/referee/internal/regtest"
)

const (
	user     = "gwen"
	password = "s3cr3t-pass"
)

// site is a registry with one blob, a stage of plugins for it and a client.
type site struct {
	*stage
	reg     *regtest.Registry
	desc    ocispec.Descriptor
	client  *registry.Client
	plugins *credentialprovider.Plugins
}

func newSite(t *testing.T, auth regtest.Auth, opts registry.Options) *site {
	t.Helper()
	s := &site{stage: newStage(t), reg: regtest.New(t, regtest.Options{Auth: auth})}
	s.configure(plug{name: "node", match: "127.0.0.1:" + s.port()})
	s.opts.RetryAfter = time.Nanosecond
	s.plugins = s.start()
	var err error
	if s.desc, err = s.reg.PutBlob("application/octet-stream", []byte("blob")); err != nil {
		t.Fatal(err)
	}
	opts.Sources = append([]registry.Source{s.plugins}, opts.Sources...)
	if opts.HostDirs == nil {
		opts.HostDirs = []string{filepath.Join(s.dir, "none")}
	}
	opts.Log = s.opts.Log
	s.client = registry.New(opts)
	t.Cleanup(func() { _ = s.client.Close() })
	return s
}

func (s *site) port() string { _, port, _ := strings.Cut(s.reg.Host(), ":"); return port }

// says makes the node's plugin answer with that password.
func (s *site) says(password string) {
	s.t.Helper()
	s.answer("node", "Registry", "", map[string]string{s.reg.Host(): user + ":" + password})
}

func (s *site) repository(path string, creds registry.Credentials) *registry.Repository {
	s.t.Helper()
	repo, err := s.client.Repository(s.reg.Host()+"/"+path, creds)
	if err != nil {
		s.t.Fatal(err)
	}
	return repo
}

func (s *site) read(repo *registry.Repository) error {
	resp, err := repo.Do(s.t.Context(), registry.Request{Path: "blobs/" + s.desc.Digest.String(), Capability: registry.Pull})
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "blob" {
		return fmt.Errorf("body %q: %w", body, err)
	}
	return nil
}

func (s *site) mustRead(repo *registry.Repository) {
	s.t.Helper()
	if err := s.read(repo); err != nil {
		s.t.Fatal(err)
	}
}

// kinds are the two ways in which a registry asks.
func kinds() map[string]regtest.Auth {
	return map[string]regtest.Auth{
		"token": {Kind: regtest.AuthToken, Username: user, Password: password},
		"basic": {Kind: regtest.AuthBasic, Username: user, Password: password},
	}
}

func eachKind(t *testing.T, test func(*testing.T, regtest.Auth)) {
	t.Helper()
	for name, auth := range kinds() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, auth)
		})
	}
}

func TestOpenRegistryRunsNoPlugin(t *testing.T) {
	t.Parallel()
	s := newSite(t, regtest.Auth{}, registry.Options{})
	s.mustRead(s.repository("app", registry.Credentials{}))
	if asked := s.asked(); asked != nil {
		t.Errorf("asked %q", asked)
	}
}

func TestPluginOpensTheRegistry(t *testing.T) {
	t.Parallel()
	eachKind(t, func(t *testing.T, auth regtest.Auth) {
		s := newSite(t, auth, registry.Options{})
		s.says(password)
		repo := s.repository("app", registry.Credentials{})
		var reading sync.WaitGroup
		for range 10 {
			reading.Go(func() {
				if err := s.read(repo); err != nil {
					t.Error(err)
				}
			})
		}
		reading.Wait()
		s.mustRead(s.repository("other", registry.Credentials{}))
		if n := len(s.asked()); n != 1 {
			t.Errorf("%d runs, want 1", n)
		}
	})
}

func TestRequestGoesFirst(t *testing.T) {
	t.Parallel()
	eachKind(t, func(t *testing.T, auth regtest.Auth) {
		s := newSite(t, auth, registry.Options{})
		s.says("wrong")
		s.mustRead(s.repository("app", registry.Credentials{Username: user, Password: password}))

		// Credentials that never were right are not replaced by the node's.
		s.says(password)
		if err := s.read(s.repository("app", registry.Credentials{Username: user, Password: "wrong"})); reason.Of(err) != reason.Unauthorized {
			t.Errorf("error %v", err)
		}
		if asked := s.asked(); asked != nil {
			t.Errorf("asked %q", asked)
		}
	})
}

// TestReadsOutliveTheRequest: the secret of the pull expires, then one the plugin
// gave does.
func TestReadsOutliveTheRequest(t *testing.T) {
	t.Parallel()
	eachKind(t, func(t *testing.T, auth regtest.Auth) {
		s := newSite(t, auth, registry.Options{})
		rotate := func(to string) {
			s.reg.RevokeTokens()
			auth.Password = to
			s.reg.SetAuth(auth)
			s.says(to)
		}
		repo := s.repository("app", registry.Credentials{Username: user, Password: password})
		s.mustRead(repo)
		for i, secret := range []string{"second-secret", "third-secret", "fourth-secret"} {
			rotate(secret)
			for range 3 {
				s.mustRead(repo)
			}
			if n := len(s.asked()); n != i+1 {
				t.Errorf("%d runs after %d changes", n, i+1)
			}
		}
	})
}

// TestForbiddenIsRefusedToo: Amazon's registry says 403 to a password that has
// expired.
func TestForbiddenIsRefusedToo(t *testing.T) {
	t.Parallel()
	s := newSite(t, regtest.Auth{Kind: regtest.AuthBasic, Username: user, Password: password}, registry.Options{})
	repo := s.repository("app", registry.Credentials{Username: user, Password: password})
	s.mustRead(repo)
	s.says("second-secret")
	s.reg.SetAuth(regtest.Auth{Kind: regtest.AuthBasic, Username: user, Password: "second-secret"})
	s.reg.Inject(regtest.Fault{Status: http.StatusForbidden, Match: func(r *http.Request) bool {
		_, secret, ok := r.BasicAuth()
		return ok && secret == password
	}})
	s.mustRead(repo)
}

func TestNextSourceIsAsked(t *testing.T) {
	t.Parallel()
	eachKind(t, func(t *testing.T, auth regtest.Auth) {
		config := filepath.Join(t.TempDir(), "config.json")
		s := newSite(t, auth, registry.Options{DockerConfig: config})
		login := base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
		s.write(config, fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, s.reg.Host(), login))
		for name, answer := range map[string]string{
			"none":    answerText(t, "Image", "0s", nil),
			"refused": answerText(t, "Image", "0s", map[string]string{s.reg.Host(): user + ":wrong"}),
			"garbage": "garbage",
		} {
			s.write(s.answerFile("node"), answer)
			repo := s.repository(name, registry.Credentials{})
			s.mustRead(repo)
			s.mustRead(repo)
		}
	})
}

func TestAnonymousIsTheLastTry(t *testing.T) {
	t.Parallel()
	auth := regtest.Auth{Kind: regtest.AuthToken, Username: user, Password: password, Anonymous: true}
	s := newSite(t, auth, registry.Options{})
	s.says("expired long ago")
	s.mustRead(s.repository("app", registry.Credentials{}))

	auth.Anonymous = false
	s.reg.SetAuth(auth)
	s.reg.RevokeTokens()
	for range 2 {
		if err := s.read(s.repository("app", registry.Credentials{})); reason.Of(err) != reason.Unauthorized {
			t.Errorf("error %v", err)
		}
	}
	s.says(password)
	s.mustRead(s.repository("app", registry.Credentials{})) // and it recovers
}

func TestExpiredAnswerIsReplacedBeforeItIsRefused(t *testing.T) {
	t.Parallel()
	s := newSite(t, regtest.Auth{Kind: regtest.AuthBasic, Username: user, Password: password}, registry.Options{})
	s.answer("node", "Image", "50ms", map[string]string{s.reg.Host(): user + ":" + password})
	repo := s.repository("app", registry.Credentials{})
	s.mustRead(repo)
	s.reg.ResetRequests()
	eventually.True(t, "the plugin is asked again", func() bool {
		s.mustRead(repo)
		return len(s.asked()) > 1
	})
	if n, _ := s.reg.Count(func(e regtest.Entry) bool { return e.Status == http.StatusUnauthorized }); n != 0 {
		t.Errorf("%d requests refused", n)
	}

	// A plugin that has nothing new does not take away what is still good.
	s.write(s.answerFile("node"), "garbage")
	before := len(s.asked())
	eventually.True(t, "the plugin is asked in vain", func() bool {
		s.mustRead(repo)
		return len(s.asked()) > before
	})
	s.mustRead(repo)
}

// TestCredentialsStayInTheirRepository: the plugin knows a login for each of two
// repositories, and the registry sees each only where it belongs.
func TestCredentialsStayInTheirRepository(t *testing.T) {
	t.Parallel()
	s := newSite(t, regtest.Auth{Kind: regtest.AuthBasic, Username: user, Password: password}, registry.Options{})
	s.answer("node", "Registry", "", map[string]string{s.reg.Host() + "/one": "one:a", s.reg.Host() + "/two": "two:b"})
	var mu sync.Mutex
	seen := map[string]bool{}
	s.reg.Inject(regtest.Fault{Match: func(r *http.Request) bool {
		if name, _, ok := r.BasicAuth(); ok {
			mu.Lock()
			defer mu.Unlock()
			seen[name+" "+strings.Split(r.URL.Path, "/")[2]] = true
		}
		return false
	}})
	for _, path := range []string{"one", "two", "three"} {
		if err := s.read(s.repository(path, registry.Credentials{})); reason.Of(err) != reason.Unauthorized {
			t.Errorf("error %v", err)
		}
	}
	if len(seen) != 2 || !seen["one one"] || !seen["two two"] {
		t.Errorf("seen: %v", seen)
	}
}

// TestMirrorGetsWhatContainerdWouldGiveIt: the credentials of the image's
// registry, and docker's login of the mirror itself; a host that is only
// redirected to gets nothing.
func TestMirrorGetsWhatContainerdWouldGiveIt(t *testing.T) {
	t.Parallel()
	certs := t.TempDir()
	s := newSite(t, regtest.Auth{Kind: regtest.AuthBasic, Username: user, Password: password}, registry.Options{HostDirs: []string{certs}})
	s.reg.Configure(func(f *regtest.Features) { f.RedirectBlobs = true })
	s.configure(plug{name: "node", match: "registry.example"})
	s.answer("node", "Registry", "", map[string]string{"registry.example": user + ":" + password, s.reg.Host(): "mirror:login"})
	dir := filepath.Join(certs, "registry.example")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	s.write(filepath.Join(dir, "hosts.toml"), fmt.Sprintf("server = \"http://127.0.0.1:1\"\n[host.%q]\ncapabilities = [\"pull\"]\n", s.reg.URL()))
	repo, err := s.client.Repository("registry.example/app", registry.Credentials{})
	if err != nil {
		t.Fatal(err)
	}
	s.mustRead(repo)
	for _, e := range s.reg.Requests() {
		if e.Server == "storage" && e.Authorized {
			t.Error("storage was shown credentials")
		}
	}
}

// TestStaleAnswerIsAskedForAgain: what was remembered for one repository is
// refused to the next one.
func TestStaleAnswerIsAskedForAgain(t *testing.T) {
	t.Parallel()
	eachKind(t, func(t *testing.T, auth regtest.Auth) {
		s := newSite(t, auth, registry.Options{})
		s.says(password)
		s.mustRead(s.repository("app", registry.Credentials{}))
		auth.Password = "second-secret"
		s.reg.SetAuth(auth)
		s.says(auth.Password)
		s.mustRead(s.repository("other", registry.Credentials{}))
		if n := len(s.asked()); n != 2 {
			t.Errorf("%d runs, want 2", n)
		}

		auth.Password = "a secret that nobody knows"
		s.reg.SetAuth(auth)
		if err := s.read(s.repository("third", registry.Credentials{})); reason.Of(err) != reason.Unauthorized {
			t.Errorf("error %v", err)
		}
		if n := len(s.asked()); n != 3 {
			t.Errorf("%d runs, want one more: once for what may be stale, not for what is fresh", n)
		}
	})
}

// TestEndOfTheCallerIsNotTheEndOfTheRun: one gives up while the plugin runs; the
// next gets what that run brings.
func TestEndOfTheCallerIsNotTheEndOfTheRun(t *testing.T) {
	t.Parallel()
	eachKind(t, func(t *testing.T, auth regtest.Auth) {
		s := newSite(t, auth, registry.Options{})
		s.configure(plug{name: "node", match: s.reg.Host(), mode: "gate"})
		s.says(password)
		gate := s.answerFile("node") + ".gate"
		if err := syscall.Mkfifo(gate, 0o600); err != nil {
			t.Fatal(err)
		}
		repo := s.repository("app", registry.Credentials{})
		ctx, cancel := context.WithCancel(t.Context())
		gaveUp := make(chan error, 1)
		go func() { // awaited below
			_, err := repo.Do(ctx, registry.Request{Path: "blobs/" + s.desc.Digest.String()})
			gaveUp <- err
		}()
		eventually.True(t, "the plugin runs", func() bool { return s.asked() != nil })
		cancel()
		if err := <-gaveUp; !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
		read := make(chan error, 1)
		go func() { read <- s.read(repo) }() // awaited below
		open, err := os.OpenFile(gate, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		_ = open.Close()
		if err := <-read; err != nil {
			t.Error(err)
		}
		if n := len(s.asked()); n != 1 {
			t.Errorf("%d runs, want 1", n)
		}
	})
}

package registry_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/internal/registry"
	"github.com/referee-cri/referee/internal/regtest"
)

const (
	user     = "gwen"
	password = "s3cr3t-pass"
	refresh  = "r3fr3sh-token"
)

var content = []byte("some blob")

func start(t *testing.T, opts regtest.Options) (*regtest.Registry, ocispec.Descriptor) {
	t.Helper()
	reg := regtest.New(t, opts)
	desc, err := reg.PutBlob("application/octet-stream", content)
	if err != nil {
		t.Fatal(err)
	}
	return reg, desc
}

func client(t *testing.T, opts registry.Options) *registry.Client {
	t.Helper()
	if opts.HostDirs == nil {
		opts.HostDirs = []string{filepath.Join(t.TempDir(), "none")}
	}
	c := registry.New(opts)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func repository(t *testing.T, c *registry.Client, name string, creds registry.Credentials) *registry.Repository {
	t.Helper()
	repo, err := c.Repository(name, creds)
	if err != nil {
		t.Fatal(err)
	}
	return repo
}

func blobRequest(desc ocispec.Descriptor) registry.Request {
	return registry.Request{Path: "blobs/" + desc.Digest.String(), Capability: registry.Pull}
}

// get makes a request and wants the blob.
func get(t *testing.T, repo *registry.Repository, req registry.Request) *registry.Response {
	t.Helper()
	resp, err := fetch(t.Context(), repo, req)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

func fetch(ctx context.Context, repo *registry.Repository, req registry.Request) (*registry.Response, error) {
	resp, err := repo.Do(ctx, req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err == nil && !bytes.Equal(body, content) {
		err = fmt.Errorf("body %q", body)
	}
	return resp, err
}

func count(reg *regtest.Registry, match func(regtest.Entry) bool) int {
	n, _ := reg.Count(match)
	return n
}

func isToken(e regtest.Entry) bool { return e.Path == "/token" }

func TestAuthentication(t *testing.T) {
	t.Parallel()
	token := regtest.Auth{Kind: regtest.AuthToken, Username: user, Password: password, Refresh: refresh}
	open := token
	open.Anonymous = true
	basic := regtest.Auth{Kind: regtest.AuthBasic, Username: user, Password: password}
	right := registry.Credentials{Username: user, Password: password}
	encoded := registry.Credentials{Auth: base64.StdEncoding.EncodeToString([]byte(user + ":" + password))}
	for name, tc := range map[string]struct {
		auth  regtest.Auth
		creds registry.Credentials
		want  reason.Code
	}{
		"none needed":                   {regtest.Auth{}, registry.Credentials{}, reason.None},
		"basic":                         {basic, right, reason.None},
		"basic, encoded":                {basic, encoded, reason.None},
		"basic, wrong password":         {basic, registry.Credentials{Username: user, Password: "x"}, reason.Unauthorized},
		"basic, anonymous":              {basic, registry.Credentials{}, reason.Unauthorized},
		"basic, garbled":                {basic, registry.Credentials{Auth: "%%%"}, reason.Unauthorized},
		"token":                         {token, right, reason.None},
		"token, encoded":                {token, encoded, reason.None},
		"token, by identity token":      {token, registry.Credentials{IdentityToken: refresh}, reason.None},
		"token, anonymous":              {open, registry.Credentials{}, reason.None},
		"token, anonymous not accepted": {token, registry.Credentials{}, reason.Unauthorized},
		"token, wrong password":         {token, registry.Credentials{Username: user, Password: "x"}, reason.Unauthorized},
		"credentials of another server": {token, registry.Credentials{Username: user, Password: password, ServerAddress: "https://other.example"}, reason.Unauthorized},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reg, desc := start(t, regtest.Options{})
			reg.SetAuth(tc.auth)
			repo := repository(t, client(t, registry.Options{}), reg.Host()+"/app", tc.creds)
			resp, err := repo.Do(t.Context(), blobRequest(desc))
			if err == nil {
				_ = resp.Body.Close()
			}
			if got := reason.Of(err); got != tc.want {
				t.Errorf("reason %q (%v), want %q", got, err, tc.want)
			}
		})
	}
}

func TestServerAddressMayBeBareOrURL(t *testing.T) {
	t.Parallel()
	reg, desc := start(t, regtest.Options{Auth: regtest.Auth{Kind: regtest.AuthBasic, Username: user, Password: password}})
	for _, address := range []string{reg.Host(), "https://" + reg.Host(), "http://" + reg.Host() + "/v1/", reg.Host() + "/app"} {
		get(t, repository(t, client(t, registry.Options{}), reg.Host()+"/app",
			registry.Credentials{Username: user, Password: password, ServerAddress: address}), blobRequest(desc))
	}
}

func TestTokenIsSharedAndWarm(t *testing.T) {
	t.Parallel()
	reg, desc := start(t, regtest.Options{Auth: regtest.Auth{Kind: regtest.AuthToken, Username: user, Password: password}})
	c := client(t, registry.Options{})
	creds := registry.Credentials{Username: user, Password: password}

	var wg sync.WaitGroup
	for range 20 { // cold, all at once
		repo := repository(t, c, reg.Host()+"/app", creds)
		wg.Go(func() {
			if _, err := fetch(t.Context(), repo, blobRequest(desc)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := count(reg, isToken); n != 1 {
		t.Errorf("%d tokens fetched by parallel cold requests, want 1", n)
	}
	reg.ResetRequests()
	connections := reg.Connections()
	for range 5 {
		get(t, repository(t, c, reg.Host()+"/app", creds), blobRequest(desc))
	}
	if n := count(reg, nil); n != 5 {
		t.Errorf("%d requests for five warm blobs", n)
	}
	if n := reg.Connections() - connections; n != 0 {
		t.Errorf("%d new connections for warm requests", n)
	}

	other := registry.Credentials{Username: user, Password: "wrong"}
	if _, err := repository(t, c, reg.Host()+"/app", other).Do(t.Context(), blobRequest(desc)); reason.Of(err) != reason.Unauthorized {
		t.Errorf("other credentials used the token: %v", err)
	}
}

func TestVoidTokenIsRenewed(t *testing.T) {
	t.Parallel()
	reg, desc := start(t, regtest.Options{Auth: regtest.Auth{Kind: regtest.AuthToken, Username: user, Password: password}})
	repo := repository(t, client(t, registry.Options{}), reg.Host()+"/app", registry.Credentials{Username: user, Password: password})
	get(t, repo, blobRequest(desc))
	reg.RevokeTokens() // the registry says 401 without "error=", as if there had been no token
	reg.ResetRequests()
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			if _, err := fetch(t.Context(), repo, blobRequest(desc)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := count(reg, isToken); n != 1 {
		t.Errorf("%d tokens fetched after a revocation, want 1", n)
	}
}

// TestFailedTokenFetchIsForgotten: containerd's authorizer would answer with the
// same error for ever.
func TestFailedTokenFetchIsForgotten(t *testing.T) {
	t.Parallel()
	reg, desc := start(t, regtest.Options{Auth: regtest.Auth{Kind: regtest.AuthToken, Username: user, Password: password}})
	repo := repository(t, client(t, registry.Options{}), reg.Host()+"/app", registry.Credentials{Username: user, Password: password})
	for name, fault := range map[string]regtest.Fault{
		"server error": {Status: 500},
		"dropped":      {Drop: true},
		"hanging":      {Hang: true},
	} {
		fault.Match = regtest.Path("/token")
		remove := reg.Inject(fault)
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		if _, err := repo.Do(ctx, blobRequest(desc)); err == nil {
			t.Errorf("%s: no error", name)
		} else if strings.Contains(err.Error(), password) {
			t.Errorf("%s: password in %v", name, err)
		}
		cancel()
		remove()
		get(t, repo, blobRequest(desc))
		reg.RevokeTokens()
	}
}

func TestErrorsTellWhatHappened(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		fault  regtest.Fault
		want   reason.Code
		status int
		codes  []string
	}{
		"unknown name": {regtest.Fault{Status: 404, Body: []byte(`{"errors":[{"code":"NAME_UNKNOWN","message":"x"}]}`)}, reason.NotFound, 404, []string{"NAME_UNKNOWN"}},
		"html 404":     {regtest.Fault{Status: 404, Body: []byte("<html>")}, reason.NotFound, 404, nil},
		"hostile code": {regtest.Fault{Status: 404, Body: []byte(`{"errors":[{"code":"X\nlog line"}]}`)}, reason.NotFound, 404, nil},
		"405":          {regtest.Fault{Status: 405}, reason.RegistryError, 405, nil},
		"429":          {regtest.Fault{Status: 429, Header: http.Header{"Retry-After": {"7"}}}, reason.RegistryError, 429, nil},
		"403":          {regtest.Fault{Status: 403}, reason.Unauthorized, 403, nil},
		"503":          {regtest.Fault{Status: 503, Body: bytes.Repeat([]byte("x"), 1<<20)}, reason.RegistryError, 503, nil},
		"dropped":      {regtest.Fault{Drop: true}, reason.RegistryUnreachable, 0, nil},
		"hanging":      {regtest.Fault{Hang: true}, reason.RegistryUnreachable, 0, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reg, desc := start(t, regtest.Options{})
			reg.Inject(tc.fault)
			repo := repository(t, client(t, registry.Options{ResponseHeaderTimeout: 200 * time.Millisecond}), reg.Host()+"/app", registry.Credentials{})
			req := blobRequest(desc)
			req.Query = map[string][]string{"sig": {"t0p-secret"}}
			_, err := repo.Do(t.Context(), req)
			if got := reason.Of(err); got != tc.want {
				t.Errorf("reason %q (%v), want %q", got, err, tc.want)
			}
			if text := err.Error(); strings.Contains(text, "t0p-secret") || !strings.Contains(text, "GET ") || !strings.Contains(text, reg.Host()) || strings.Contains(text, "\n") {
				t.Errorf("text %q", text)
			}
			status, ok := errors.AsType[*registry.StatusError](err)
			if ok != (tc.status != 0) {
				t.Fatalf("StatusError: %v", ok)
			}
			if !ok {
				return
			}
			if status.StatusCode != tc.status || status.Host != reg.Host() || len(status.Body) > 4<<10 || fmt.Sprint(status.Codes()) != fmt.Sprint(tc.codes) {
				t.Errorf("status %d of %s, %d bytes, codes %v", status.StatusCode, status.Host, len(status.Body), status.Codes())
			}
			if tc.status == 429 && status.Header.Get("Retry-After") != "7" {
				t.Error("Retry-After is lost")
			}
		})
	}
}

func TestNobodyListens(t *testing.T) {
	t.Parallel()
	repo := repository(t, client(t, registry.Options{}), "127.0.0.1:1/app", registry.Credentials{})
	if _, err := repo.Do(t.Context(), registry.Request{Path: "manifests/latest"}); reason.Of(err) != reason.RegistryUnreachable {
		t.Errorf("error %v", err)
	}
	if _, err := client(t, registry.Options{}).Repository("///", registry.Credentials{}); reason.Of(err) != reason.BadRequest {
		t.Errorf("name: %v", err)
	}
}

func TestCallersEndIsNotTheRegistrys(t *testing.T) {
	t.Parallel()
	reg, desc := start(t, regtest.Options{})
	reg.Inject(regtest.Fault{Hang: true})
	repo := repository(t, client(t, registry.Options{}), reg.Host()+"/app", registry.Credentials{})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := repo.Do(ctx, blobRequest(desc)); reason.Of(err) != reason.BudgetExceeded {
		t.Errorf("deadline: %v", err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	if _, err := repo.Do(ctx, blobRequest(desc)); reason.Of(err) != reason.Cancelled {
		t.Errorf("cancel: %v", err)
	}
}

// hostsTOML writes certs.d/<host>/hosts.toml and returns certs.d.
func hostsTOML(t *testing.T, root, host, text string) string {
	t.Helper()
	dir := filepath.Join(root, host)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "hosts.toml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return root
}

func TestMirrors(t *testing.T) {
	t.Parallel()
	mirror, desc := start(t, regtest.Options{})
	origin, _ := start(t, regtest.Options{})
	root := hostsTOML(t, t.TempDir(), "registry.example", fmt.Sprintf(`
server = %q
[host.%q]
  capabilities = ["pull"]
  [host.%q.header]
    x-tenant = ["a"]
`, origin.URL(), mirror.URL(), mirror.URL()))
	c := client(t, registry.Options{HostDirs: []string{filepath.Join(root, "absent"), root}, DownTime: time.Hour})
	repo := repository(t, c, "registry.example/app", registry.Credentials{})
	asked := func(reg *regtest.Registry) int { n := count(reg, nil); reg.ResetRequests(); return n }

	var tenant atomic.Value
	mirror.Inject(regtest.Fault{Match: func(r *http.Request) bool { tenant.Store(r.Header.Get("X-Tenant")); return false }})
	resp := get(t, repo, blobRequest(desc))
	if resp.Host != mirror.Host() || tenant.Load() != "a" {
		t.Errorf("answered by %s, tenant %v", resp.Host, tenant.Load())
	}
	for _, e := range mirror.Requests() {
		if e.Query != "ns=registry.example" {
			t.Errorf("query %q", e.Query)
		}
	}
	mirror.ResetRequests()

	// A capability that the mirror has not.
	if _, err := repo.Do(t.Context(), registry.Request{Path: "manifests/none", Capability: registry.Resolve}); reason.Of(err) != reason.NotFound {
		t.Errorf("resolve: %v", err)
	}
	if n := asked(mirror); n != 0 {
		t.Errorf("the mirror was asked to resolve")
	}
	asked(origin)

	// Everything that sends a request on to the next host.
	for name, fault := range map[string]regtest.Fault{
		"not found":    {Status: 404},
		"server error": {Status: 500},
		"forbidden":    {Status: 403},
		"unauthorized": {Status: 401},
		"limited":      {Status: 429},
	} {
		remove := mirror.Inject(fault)
		if resp := get(t, repo, blobRequest(desc)); resp.Host != origin.Host() {
			t.Errorf("%s: answered by %s", name, resp.Host)
		}
		remove()
		if asked(mirror) == 0 {
			t.Errorf("%s: the mirror was not asked first", name)
		}
		for _, e := range origin.Requests() {
			if e.Query != "" && e.Query != "ns=registry.example" {
				t.Errorf("query %q", e.Query)
			}
		}
	}

	// A mirror that is judged unfit by the caller.
	req := blobRequest(desc)
	req.Accept = func(resp *registry.Response) error {
		if resp.Host == mirror.Host() {
			return errors.New("no")
		}
		return nil
	}
	if resp := get(t, repo, req); resp.Host != origin.Host() {
		t.Errorf("unfit answer taken from %s", resp.Host)
	}
	asked(mirror)

	// An unreachable mirror is tried once, then after the others.
	remove := mirror.Inject(regtest.Fault{Drop: true})
	for range 3 {
		get(t, repo, blobRequest(desc))
	}
	remove()
	if n := asked(mirror); n > 2 { // net/http tries a dropped connection again
		t.Errorf("a mirror that is down was asked %d times", n)
	}
	removeOrigin := origin.Inject(regtest.Fault{Status: 500})
	defer removeOrigin()
	if resp := get(t, repo, blobRequest(desc)); resp.Host != mirror.Host() {
		t.Errorf("answered by %s", resp.Host)
	}
}

func TestHostDirectories(t *testing.T) {
	t.Parallel()
	reg, desc := start(t, regtest.Options{TLS: true})
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, reg.CertPEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, dir := range map[string]string{
		"of the host":         "registry.example",
		"default for any":     "_default",
		"of a host with port": "registry.example_5000_",
	} {
		host := "registry.example"
		if strings.Contains(dir, "_5000_") {
			host += ":5000"
		}
		root := hostsTOML(t, t.TempDir(), dir, fmt.Sprintf("[host.%q]\nca = %q\n", reg.URL(), ca))
		c := client(t, registry.Options{HostDirs: []string{root}})
		if resp := get(t, repository(t, c, host+"/app", registry.Credentials{}), blobRequest(desc)); resp.Host != reg.Host() {
			t.Errorf("%s: answered by %s", name, resp.Host)
		}
	}
}

func TestCertificates(t *testing.T) {
	t.Parallel()
	reg, desc := start(t, regtest.Options{TLS: true})
	root := t.TempDir()
	hostsTOML(t, root, "registry.example", fmt.Sprintf("server = %q\n", reg.URL()))
	c := client(t, registry.Options{HostDirs: []string{root}})
	repo := repository(t, c, "registry.example/app", registry.Credentials{})
	if _, err := repo.Do(t.Context(), blobRequest(desc)); reason.Of(err) != reason.RegistryUnreachable {
		t.Fatalf("unknown authority: %v", err)
	}

	// The certificate is put where docker keeps it; no restart.
	if err := os.Remove(filepath.Join(root, "registry.example", "hosts.toml")); err != nil {
		t.Fatal(err)
	}
	hostsTOML(t, root, "registry.example", fmt.Sprintf("server = %q\nca = \"ca.crt\"\n", reg.URL()))
	if err := os.WriteFile(filepath.Join(root, "registry.example", "ca.crt"), reg.CertPEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	get(t, repo, blobRequest(desc)) // at once: a refused certificate makes the hosts stale
}

func TestChangedHostsAreNoticed(t *testing.T) {
	t.Parallel()
	first, desc := start(t, regtest.Options{})
	second, _ := start(t, regtest.Options{})
	root := hostsTOML(t, t.TempDir(), "registry.example", fmt.Sprintf("server = %q\n", first.URL()))
	c := client(t, registry.Options{HostDirs: []string{root}})
	repo := repository(t, c, "registry.example/app", registry.Credentials{})
	resp := get(t, repo, blobRequest(desc))
	hostsTOML(t, root, "registry.example", fmt.Sprintf("# changed\nserver = %q\n", second.URL()))
	at := blobRequest(desc)
	at.At = resp.At // must not stick to a host that is configured no more
	deadline := time.Now().Add(5 * time.Second)
	for {
		if get(t, repo, at).Host == second.Host() {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the change is not noticed")
		}
		runtime.Gosched()
	}
}

// spy is a server that remembers the headers of what it is asked.
type spy struct {
	*httptest.Server
	mu   sync.Mutex
	seen []http.Header
}

func newSpy(t *testing.T, handler http.HandlerFunc) *spy {
	t.Helper()
	s := &spy{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.seen = append(s.seen, r.Header.Clone())
		s.mu.Unlock()
		handler(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *spy) host() string { return s.Listener.Addr().String() }

func (s *spy) headers() []http.Header {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen
}

// TestRedirectTellsNoSecrets: another port of the same name is another host,
// which net/http alone does not think.
func TestRedirectTellsNoSecrets(t *testing.T) {
	t.Parallel()
	storage := newSpy(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(content) })
	reg := newSpy(t, func(w http.ResponseWriter, r *http.Request) {
		if _, pass, _ := r.BasicAuth(); pass != password {
			w.Header().Set("Www-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		http.Redirect(w, r, storage.URL+"/object?sig=t0p-secret", http.StatusTemporaryRedirect)
	})
	root := hostsTOML(t, t.TempDir(), "registry.example", fmt.Sprintf("server = %q\n[header]\nx-api-key = %q\n", reg.URL, password))
	c := client(t, registry.Options{HostDirs: []string{root}})
	repo := repository(t, c, "registry.example/app", registry.Credentials{Username: user, Password: password})
	req := registry.Request{Path: "blobs/x", Header: http.Header{"Range": {"bytes=0-8"}}}
	resp := get(t, repo, req)
	if !resp.At.Redirected() {
		t.Error("the redirect is not told")
	}
	req.At = resp.At
	if again := get(t, repo, req); !again.At.Redirected() || !again.At.Same(resp.At) {
		t.Error("asked directly, the place is forgotten")
	}
	if n := len(reg.headers()); n != 2 { // challenge, redirect
		t.Errorf("registry asked %d times", n)
	}
	seen := storage.headers()
	if len(seen) != 2 {
		t.Fatalf("storage asked %d times", len(seen))
	}
	for _, h := range seen {
		for name, values := range h {
			if text := strings.Join(values, " "); strings.Contains(text, password) || name == "Authorization" || strings.Contains(text, "Basic") {
				t.Errorf("storage was told %s: %s", name, text)
			}
		}
		if h.Get("Range") != "bytes=0-8" {
			t.Errorf("range lost on the way: %v", h)
		}
	}
}

func TestChallengeOfStorageIsNotAnswered(t *testing.T) {
	t.Parallel()
	storage := newSpy(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Www-Authenticate", `Basic realm="give me"`)
		w.WriteHeader(http.StatusUnauthorized)
	})
	reg := newSpy(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, storage.URL+"/login?sig=t0p-secret", http.StatusFound)
	})
	repo := repository(t, client(t, registry.Options{}), reg.host()+"/app", registry.Credentials{Username: user, Password: password})
	_, err := repo.Do(t.Context(), registry.Request{Path: "blobs/x"})
	if reason.Of(err) != reason.Unauthorized || strings.Contains(err.Error(), "t0p-secret") {
		t.Errorf("error %v", err)
	}
	for _, h := range storage.headers() {
		if h.Get("Authorization") != "" {
			t.Error("credentials were given to a host that was only redirected to")
		}
	}
}

func TestRedirectsEnd(t *testing.T) {
	t.Parallel()
	var reg *spy
	reg = newSpy(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, reg.URL+"/again", http.StatusFound)
	})
	repo := repository(t, client(t, registry.Options{}), reg.host()+"/app", registry.Credentials{})
	if _, err := repo.Do(t.Context(), registry.Request{Path: "blobs/x"}); reason.Of(err) != reason.RegistryUnreachable {
		t.Errorf("error %v", err)
	}
	if n := len(reg.headers()); n > 20 {
		t.Errorf("%d redirects followed", n)
	}
}

func TestPathsAndQueries(t *testing.T) {
	t.Parallel()
	var asked []string
	reg := newSpy(t, func(_ http.ResponseWriter, r *http.Request) { asked = append(asked, r.Method+" "+r.URL.String()) })
	repo := repository(t, client(t, registry.Options{}), reg.host()+"/team/app:tag", registry.Credentials{})
	for _, req := range []registry.Request{
		{Path: "manifests/latest"},
		{Method: http.MethodHead, Path: "referrers/sha256:00", Query: map[string][]string{"artifactType": {"a/b+c"}}},
		{Path: "/oras/artifacts/v1/team/app/manifests/x/referrers"},
	} {
		resp, err := repo.Do(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
	}
	want := []string{
		"GET /v2/team/app/manifests/latest",
		"HEAD /v2/team/app/referrers/sha256:00?artifactType=a%2Fb%2Bc",
		"GET /oras/artifacts/v1/team/app/manifests/x/referrers",
	}
	if fmt.Sprint(asked) != fmt.Sprint(want) {
		t.Errorf("asked %q, want %q", asked, want)
	}
}

func TestDockerConfigIsAskedForAnonymousOnly(t *testing.T) {
	t.Parallel()
	reg, desc := start(t, regtest.Options{Auth: regtest.Auth{Kind: regtest.AuthToken, Username: user, Password: password}})
	config := filepath.Join(t.TempDir(), "config.json")
	auth := base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
	if err := os.WriteFile(config, fmt.Appendf(nil, `{"auths":{%q:{"auth":%q}}}`, reg.Host(), auth), 0o600); err != nil {
		t.Fatal(err)
	}
	c := client(t, registry.Options{DockerConfig: config})
	get(t, repository(t, c, reg.Host()+"/app", registry.Credentials{}), blobRequest(desc))
	if _, err := repository(t, c, reg.Host()+"/app", registry.Credentials{Username: "x", Password: "y"}).Do(t.Context(), blobRequest(desc)); reason.Of(err) != reason.Unauthorized {
		t.Errorf("wrong credentials were replaced: %v", err)
	}
}

func TestSecretsAreNeverShown(t *testing.T) {
	t.Parallel()
	creds := registry.Credentials{Username: user, Password: password, IdentityToken: refresh, Auth: password}
	raw, err := json.Marshal(map[string]any{"creds": creds})
	if err != nil {
		t.Fatal(err)
	}
	printed := fmt.Sprint(creds) //nolint:gocritic // printing is what must not show a secret
	for _, text := range []string{printed, fmt.Sprintf("%+v %#v %s", creds, creds, creds), string(raw)} {
		for _, secret := range []string{password, refresh} {
			if strings.Contains(text, secret) {
				t.Errorf("%q shows a secret", text)
			}
		}
	}

	// And none in any log of a whole conversation.
	var logs bytes.Buffer
	logger := zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), zapcore.AddSync(&logs), zapcore.DebugLevel))
	reg, desc := start(t, regtest.Options{Auth: regtest.Auth{Kind: regtest.AuthToken, Username: user, Password: password}})
	root := hostsTOML(t, t.TempDir(), "registry.example", fmt.Sprintf("server = %q\n[host.\"http://127.0.0.1:1\"]\n[host.\"http://127.0.0.1:1\".header]\nx-key = %q\n", reg.URL(), password))
	c := client(t, registry.Options{HostDirs: []string{root}, Log: logger})
	get(t, repository(t, c, "registry.example/app", registry.Credentials{Username: user, Password: password}), blobRequest(desc))
	wrong := registry.Credentials{Username: user, Password: password + "x"}
	if _, err := repository(t, c, "registry.example/app", wrong).Do(t.Context(), blobRequest(desc)); err == nil {
		t.Error("wrong password accepted")
	}
	if logs.Len() == 0 || strings.Contains(logs.String(), password) || strings.Contains(logs.String(), "Bearer ") {
		t.Errorf("logs: %s", logs.String())
	}
}

func TestBrokenHostsFileIsTold(t *testing.T) {
	t.Parallel()
	var logs bytes.Buffer
	logger := zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), zapcore.AddSync(&logs), zapcore.InfoLevel))
	reg, desc := start(t, regtest.Options{})
	root := hostsTOML(t, t.TempDir(), reg.Host(), "server = [")
	c := client(t, registry.Options{HostDirs: []string{root}, Log: logger})
	get(t, repository(t, c, reg.Host()+"/app", registry.Credentials{}), blobRequest(desc)) // as containerd: goes on with defaults
	if !strings.Contains(logs.String(), "hosts.toml") {
		t.Errorf("logs: %s", logs.String())
	}
}

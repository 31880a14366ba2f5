package regtest_test

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content/memory"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/referee-cri/referee/internal/regtest"
	"github.com/referee-cri/referee/internal/testdata"
)

// reply is an answer without its body.
type reply struct {
	StatusCode int
	Header     http.Header
}

// get asks reg for path with header pairs and returns the answer and what of its
// body arrived.
func get(t *testing.T, reg *regtest.Registry, path string, header ...string) (*reply, []byte, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, reg.URL()+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	return &reply{resp.StatusCode, resp.Header}, body, err
}

func mustGet(t *testing.T, reg *regtest.Registry, path string, header ...string) (*reply, []byte) {
	t.Helper()
	resp, body, err := get(t, reg, path, header...)
	if err != nil {
		t.Fatal(err)
	}
	return resp, body
}

func mustBlob(t *testing.T, reg *regtest.Registry, content []byte) string {
	t.Helper()
	d, err := reg.PutBlob("application/octet-stream", content)
	if err != nil {
		t.Fatal(err)
	}
	return "/v2/any/blobs/" + d.Digest.String()
}

// putReferrer attaches a manifest of the given artifact type to subject.
func putReferrer(t *testing.T, reg *regtest.Registry, mediaType, artifactType string, subject ocispec.Descriptor) ocispec.Descriptor {
	t.Helper()
	d, err := reg.PutJSON("app", "", mediaType, map[string]any{
		"schemaVersion": 2, "mediaType": mediaType, "artifactType": artifactType, "subject": subject,
		"config": ocispec.DescriptorEmptyJSON, "layers": []ocispec.Descriptor{ocispec.DescriptorEmptyJSON},
	})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestBlobRanges(t *testing.T) {
	t.Parallel()
	reg := regtest.New(t, regtest.Options{})
	path := mustBlob(t, reg, []byte("0123456789"))
	for name, tc := range map[string]struct {
		header, want string
		status       int
	}{
		"whole":        {"", "0123456789", 200},
		"middle":       {"bytes=3-5", "345", 206},
		"open end":     {"bytes=7-", "789", 206},
		"suffix":       {"bytes=-2", "89", 206},
		"past the end": {"bytes=8-100", "89", 206},
		"outside":      {"bytes=10-11", "", 416},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var header []string
			if tc.header != "" {
				header = []string{"Range", tc.header}
			}
			resp, body := mustGet(t, reg, path, header...)
			if resp.StatusCode != tc.status || (tc.status < 300 && string(body) != tc.want) {
				t.Errorf("got %d %q, want %d %q", resp.StatusCode, body, tc.status, tc.want)
			}
		})
	}
}

func TestFaults(t *testing.T) {
	t.Parallel()
	const content = "0123456789"
	for name, tc := range map[string]struct {
		fault    regtest.Fault
		rng      string
		status   int
		want     string
		wantDrop bool
	}{
		"status with header and body": {fault: regtest.Fault{Status: 503, Header: http.Header{"Retry-After": {"1"}}, Body: []byte("later")}, status: 503, want: "later"},
		"flips a byte":                {fault: regtest.Fault{FlipAt: new(int64(2))}, status: 200, want: "01\xcd3456789"},
		"flips a byte of a range":     {fault: regtest.Fault{FlipAt: new(int64(4))}, rng: "bytes=3-5", status: 206, want: "3\xcb5"},
		"leaves other ranges alone":   {fault: regtest.Fault{FlipAt: new(int64(4))}, rng: "bytes=5-6", status: 206, want: "56"},
		"ignores Range":               {fault: regtest.Fault{IgnoreRange: true}, rng: "bytes=3-5", status: 200, want: content},
		"cuts the body":               {fault: regtest.Fault{CutAt: new(int64(4))}, status: 200, want: "0123", wantDrop: true},
		"drops the connection":        {fault: regtest.Fault{Drop: true}, wantDrop: true},
		"rewrites the body":           {fault: regtest.Fault{Rewrite: bytes.ToUpper}, status: 200, want: content},
		"sets the content type":       {fault: regtest.Fault{Header: http.Header{"Content-Type": {"text/html"}}}, status: 200, want: content},
		"throttles":                   {fault: regtest.Fault{BytesPerSecond: 1000}, status: 200, want: content},
		"delays":                      {fault: regtest.Fault{Latency: time.Millisecond}, status: 200, want: content},
		"does not match":              {fault: regtest.Fault{Match: regtest.Path("/manifests/"), Status: 500}, status: 200, want: content},
		"is skipped":                  {fault: regtest.Fault{Skip: 1, Status: 500}, status: 200, want: content},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reg := regtest.New(t, regtest.Options{})
			path := mustBlob(t, reg, []byte(content))
			reg.Inject(tc.fault)
			var header []string
			if tc.rng != "" {
				header = []string{"Range", tc.rng}
			}
			resp, body, err := get(t, reg, path, header...)
			if (err != nil) != tc.wantDrop {
				t.Fatalf("error %v, want a dropped connection: %t", err, tc.wantDrop)
			}
			if string(body) != tc.want {
				t.Errorf("body %q, want %q", body, tc.want)
			}
			if resp != nil && resp.StatusCode != tc.status {
				t.Errorf("status %d, want %d", resp.StatusCode, tc.status)
			}
			if want := tc.fault.Header.Get("Content-Type"); want != "" && resp.Header.Get("Content-Type") != want {
				t.Errorf("content type %q, want %q", resp.Header.Get("Content-Type"), want)
			}
		})
	}
}

func TestHangEndsWhenRemovedOrClosed(t *testing.T) {
	t.Parallel()
	for name, release := range map[string]func(reg *regtest.Registry, remove func()){
		"removed": func(_ *regtest.Registry, remove func()) { remove() },
		"closed":  func(reg *regtest.Registry, _ func()) { _ = reg.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reg := regtest.New(t, regtest.Options{})
			path := mustBlob(t, reg, []byte("x"))
			struck := make(chan struct{})
			var once sync.Once
			remove := reg.Inject(regtest.Fault{Hang: true, Match: func(*http.Request) bool {
				once.Do(func() { close(struck) })
				return true
			}})
			done := make(chan error, 1)
			go func() {
				_, _, err := get(t, reg, path)
				done <- err
			}()
			<-struck
			select {
			case err := <-done:
				t.Fatalf("answered while hanging: %v", err)
			default:
			}
			release(reg, remove)
			if err := <-done; err == nil {
				t.Error("hanging request was answered")
			}
		})
	}
}

func TestReferrersEndpoints(t *testing.T) {
	t.Parallel()
	everything := regtest.Features{Referrers: true, FilterReferrers: true, ORASv2: true, ORASv1: true, ORASPush: true}
	for name, tc := range map[string]struct {
		features regtest.Features
		path     string // %s is the subject
		key      string // of the list in the body
		want     int
		status   int
		header   [2]string
	}{
		"OCI lists OCI manifests":        {everything, "/v2/app/referrers/%s", "manifests", 2, 200, [2]string{"Content-Type", ocispec.MediaTypeImageIndex}},
		"OCI filters":                    {everything, "/v2/app/referrers/%s?artifactType=b", "manifests", 1, 200, [2]string{"Oci-Filters-Applied", "artifactType"}},
		"OCI without filter":             {regtest.Features{Referrers: true}, "/v2/app/referrers/%s?artifactType=b", "manifests", 2, 200, [2]string{"Oci-Filters-Applied", ""}},
		"OCI off":                        {regtest.Features{}, "/v2/app/referrers/%s", "", 0, 404, [2]string{}},
		"OCI bad digest":                 {everything, "/v2/app/referrers/x%s", "", 0, 400, [2]string{}},
		"ORAS v2":                        {everything, "/v2/app/_oras/artifacts/referrers?digest=%s", "referrers", 1, 200, [2]string{"Oras-Api-Version", "oras/1.0"}},
		"ORAS v2 off":                    {regtest.DefaultFeatures(), "/v2/app/_oras/artifacts/referrers?digest=%s", "", 0, 404, [2]string{}},
		"ORAS v1":                        {everything, "/oras/artifacts/v1/app/manifests/%s/referrers?artifactType=c", "references", 1, 200, [2]string{"Content-Type", "application/json"}},
		"ORAS v1 filters":                {everything, "/oras/artifacts/v1/app/manifests/%s/referrers?artifactType=z", "references", 0, 200, [2]string{}},
		"ORAS v1 off":                    {regtest.DefaultFeatures(), "/oras/artifacts/v1/app/manifests/%s/referrers", "", 0, 404, [2]string{}},
		"an unknown repository is empty": {everything, "/v2/other/referrers/%s", "manifests", 0, 200, [2]string{}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reg := regtest.New(t, regtest.Options{Features: &tc.features})
			img, err := reg.PutImage("app", "1", regtest.ImageSpec{})
			if err != nil {
				t.Fatal(err)
			}
			putReferrer(t, reg, ocispec.MediaTypeImageManifest, "a", img.Descriptor)
			putReferrer(t, reg, ocispec.MediaTypeImageManifest, "b", img.Descriptor)
			putReferrer(t, reg, regtest.MediaTypeORASArtifact, "c", img.Descriptor)
			resp, body := mustGet(t, reg, fmt.Sprintf(tc.path, img.Descriptor.Digest))
			if resp.StatusCode != tc.status {
				t.Fatalf("status %d, want %d: %s", resp.StatusCode, tc.status, body)
			}
			if tc.status != 200 {
				return
			}
			var lists map[string]json.RawMessage
			if err := json.Unmarshal(body, &lists); err != nil {
				t.Fatal(err)
			}
			var list []ocispec.Descriptor
			if err := json.Unmarshal(lists[tc.key], &list); err != nil {
				t.Fatalf("member %s of %s: %v", tc.key, body, err)
			}
			if len(list) != tc.want {
				t.Errorf("got %d entries, want %d: %s", len(list), tc.want, body)
			}
			if tc.header[0] != "" && resp.Header.Get(tc.header[0]) != tc.header[1] {
				t.Errorf("header %s is %q, want %q", tc.header[0], resp.Header.Get(tc.header[0]), tc.header[1])
			}
		})
	}
}

func TestPagingVisitsEveryEntryOnce(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		path string
		next bool // paging by @nextLink
	}{
		"OCI":               {"/v2/app/referrers/%s", false},
		"ORAS v1":           {"/oras/artifacts/v1/app/manifests/%s/referrers", false},
		"ORAS v1 next link": {"/oras/artifacts/v1/app/manifests/%s/referrers", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reg := regtest.New(t, regtest.Options{Features: &regtest.Features{
				Referrers: true, ORASv1: true, ORASNextLink: tc.next, ORASPush: true, PageSize: 2,
			}})
			img, err := reg.PutImage("app", "1", regtest.ImageSpec{})
			if err != nil {
				t.Fatal(err)
			}
			mediaType := ocispec.MediaTypeImageManifest
			if strings.HasPrefix(tc.path, "/oras") {
				mediaType = regtest.MediaTypeORASArtifact
			}
			var want, got []digest.Digest
			for i := range 5 {
				want = append(want, putReferrer(t, reg, mediaType, fmt.Sprint(i), img.Descriptor).Digest)
			}
			for path := fmt.Sprintf(tc.path, img.Descriptor.Digest); path != ""; {
				resp, body := mustGet(t, reg, path)
				var page struct {
					Manifests, References []ocispec.Descriptor
					Next                  string `json:"@nextLink"`
				}
				if err := json.Unmarshal(body, &page); err != nil {
					t.Fatal(err)
				}
				for _, d := range append(page.Manifests, page.References...) {
					got = append(got, d.Digest)
				}
				path = page.Next
				if link, ok := strings.CutSuffix(resp.Header.Get("Link"), `>; rel="next"`); ok {
					path = strings.TrimPrefix(link, "<")
				}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("entries (-want +got):\n%s", diff)
			}
		})
	}
}

func TestRedirectsExpire(t *testing.T) {
	t.Parallel()
	reg := regtest.New(t, regtest.Options{Features: &regtest.Features{RedirectBlobs: true}})
	path := mustBlob(t, reg, []byte("0123456789"))
	resp, _ := mustGet(t, reg, path, "Range", "bytes=1-2")
	location := resp.Header.Get("Location")
	if resp.StatusCode != http.StatusTemporaryRedirect || !strings.Contains(location, reg.StorageHost()) {
		t.Fatalf("got %d to %q, want a redirect to storage", resp.StatusCode, location)
	}
	follow := func(header ...string) int {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, location, nil)
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i+1 < len(header); i += 2 {
			req.Header.Set(header[i], header[i+1])
		}
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		return resp.StatusCode
	}
	if got := follow("Range", "bytes=1-2"); got != http.StatusPartialContent {
		t.Errorf("fresh URL: status %d", got)
	}
	if got := follow("Authorization", "Bearer x"); got != http.StatusBadRequest {
		t.Errorf("URL with credentials: status %d", got)
	}
	reg.ExpireURLs()
	if got := follow(); got != http.StatusForbidden {
		t.Errorf("expired URL: status %d", got)
	}
	if n, _ := reg.Count(func(e regtest.Entry) bool { return e.Server == "storage" && e.Authorized }); n != 1 {
		t.Errorf("the log has %d authorised requests to storage, want 1", n)
	}
}

// TestAuthenticatedCopy copies a layout's image with a client that nobody here
// wrote, through each way of authentication.
func TestAuthenticatedCopy(t *testing.T) {
	t.Parallel()
	dir := testdata.Dir(t, "reference")
	right := auth.Credential{Username: "robot", Password: "secret"}
	for name, tc := range map[string]struct {
		auth       regtest.Auth
		tls        bool
		credential auth.Credential
		wantErr    bool
	}{
		"open":                  {},
		"open over TLS":         {tls: true},
		"basic":                 {auth: regtest.Auth{Kind: regtest.AuthBasic, Username: "robot", Password: "secret"}, credential: right},
		"basic, wrong password": {auth: regtest.Auth{Kind: regtest.AuthBasic, Username: "robot", Password: "other"}, credential: right, wantErr: true},
		"token":                 {auth: regtest.Auth{Kind: regtest.AuthToken, Username: "robot", Password: "secret"}, credential: right},
		"token over TLS":        {auth: regtest.Auth{Kind: regtest.AuthToken, Username: "robot", Password: "secret"}, credential: right, tls: true},
		"token, refresh token":  {auth: regtest.Auth{Kind: regtest.AuthToken, Refresh: "r"}, credential: auth.Credential{RefreshToken: "r"}},
		"token, anonymous":      {auth: regtest.Auth{Kind: regtest.AuthToken, Anonymous: true}},
		"token, nobody":         {auth: regtest.Auth{Kind: regtest.AuthToken, Username: "robot", Password: "secret"}, wantErr: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reg := regtest.New(t, regtest.Options{Auth: tc.auth, TLS: tc.tls})
			if _, err := reg.LoadLayout("lab/tiny", dir+"/tiny"); err != nil {
				t.Fatal(err)
			}
			repo, err := remote.NewRepository(reg.Host() + "/lab/tiny")
			if err != nil {
				t.Fatal(err)
			}
			transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: reg.CertPool(), MinVersion: tls.VersionTLS12}}
			t.Cleanup(transport.CloseIdleConnections)
			repo.PlainHTTP = !tc.tls
			repo.Client = &auth.Client{
				Client: &http.Client{Transport: transport}, Credential: auth.StaticCredential(reg.Host(), tc.credential),
			}
			got, err := oras.Copy(t.Context(), repo, "tiny", memory.New(), "tiny", oras.DefaultCopyOptions)
			if (err != nil) != tc.wantErr {
				t.Fatalf("copy: %v, want an error: %t", err, tc.wantErr)
			}
			if want := digest.Digest("sha256:07dd292726603f52d87bd8ab9a856f6b98b9abef5eea6be23a1b4a4757e40063"); err == nil && got.Digest != want {
				t.Errorf("copied %s", got.Digest)
			}
		})
	}
}

func TestPushByClient(t *testing.T) {
	t.Parallel()
	reg := regtest.New(t, regtest.Options{Auth: regtest.Auth{Kind: regtest.AuthToken, Username: "robot", Password: "secret", Anonymous: true}})
	img, err := reg.PutImage("app", "1", regtest.ImageSpec{Layers: 3})
	if err != nil {
		t.Fatal(err)
	}
	push := func(c auth.Credential) error {
		repo, err := remote.NewRepository(reg.Host() + "/app")
		if err != nil {
			t.Fatal(err)
		}
		repo.PlainHTTP = true
		repo.Client = &auth.Client{Client: &http.Client{}, Credential: auth.StaticCredential(reg.Host(), c)}
		_, err = oras.PackManifest(t.Context(), repo, oras.PackManifestVersion1_1, "example/type", oras.PackManifestOptions{Subject: &img.Descriptor})
		return err
	}
	if err := push(auth.EmptyCredential); err == nil {
		t.Error("an anonymous client pushed")
	}
	if err := push(auth.Credential{Username: "robot", Password: "secret"}); err != nil {
		t.Fatal(err)
	}
	reg.SetAuth(regtest.Auth{})
	_, body := mustGet(t, reg, "/v2/app/referrers/"+img.Descriptor.Digest.String())
	if !bytes.Contains(body, []byte("example/type")) {
		t.Errorf("pushed artifact is not listed: %s", body)
	}
}

func TestImagesAreReproducible(t *testing.T) {
	t.Parallel()
	reg := regtest.New(t, regtest.Options{})
	var digests []digest.Digest
	for _, seed := range []int64{1, 1, 2} {
		img, err := reg.PutImage("app", "", regtest.ImageSpec{Seed: seed})
		if err != nil {
			t.Fatal(err)
		}
		digests = append(digests, img.Descriptor.Digest)
	}
	if digests[0] != digests[1] || digests[0] == digests[2] {
		t.Errorf("seeds 1, 1, 2 gave %v", digests)
	}
}

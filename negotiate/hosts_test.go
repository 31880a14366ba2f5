package negotiate_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/internal/registry"
	"github.com/referee-cri/referee/internal/regtest"
	"github.com/referee-cri/referee/negotiate"
)

// TestMirrorsAndOrigin (specification, section 2.6): what a mirror does not know
// is asked of the next host, and its ignorance is not remembered as the registry's.
func TestMirrorsAndOrigin(t *testing.T) {
	t.Parallel()
	const everything = `"pull", "resolve", "referrers"`
	for name, tc := range map[string]struct {
		capabilities string
		fault        *regtest.Fault // strikes the mirror's list; nil: it has the same as the origin
		found        negotiate.Discovery
		mirrorAsked  bool
		originAsked  bool
	}{
		"the mirror knows":            {everything, nil, negotiate.FoundReferrersAPI, true, false},
		"not the mirror's task":       {`"pull", "resolve"`, nil, negotiate.FoundReferrersAPI, false, true},
		"404, name unknown":           {everything, ptr(answer(404, "application/json", `{"errors":[{"code":"NAME_UNKNOWN"}]}`)), negotiate.FoundReferrersAPI, true, true},
		"404, as Spegel":              {everything, ptr(answer(404, "text/plain", "")), negotiate.FoundReferrersAPI, true, true},
		"a page for people":           {everything, ptr(answer(200, "text/html", "<html>")), negotiate.FoundReferrersAPI, true, true},
		"out of order":                {everything, ptr(answer(503, "text/plain", "")), negotiate.FoundReferrersAPI, true, true},
		"the connection is dropped":   {everything, &regtest.Fault{Drop: true}, negotiate.FoundReferrersAPI, true, true},
		"401, it wants another login": {everything, ptr(answer(401, "application/json", "{}")), negotiate.FoundReferrersAPI, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			origin, mirror := regtest.New(t, regtest.Options{}), regtest.New(t, regtest.Options{})
			for _, reg := range []*regtest.Registry{origin, mirror} {
				img := putImage(t, reg, "app", "1", regtest.ImageSpec{})
				form{artifactType: typeNative, layers: 2}.attach(t, reg, "app", img.Descriptor)
			}
			if tc.fault != nil {
				tc.fault.Match = regtest.Path("/referrers/")
				mirror.Inject(*tc.fault)
			}
			n := throughMirror(t, negotiate.Options{}, origin.URL(), mirror.URL(), tc.capabilities)
			p := plan(t, n, "registry.example/app:1")
			if !p.Lazy() || p.Chosen.Found != tc.found {
				t.Fatalf("%s: %s, chosen %+v", p.Reason, p.Detail, p.Chosen)
			}
			list := func(e regtest.Entry) bool { return strings.Contains(e.Path, "/referrers/") }
			told := func(e regtest.Entry) bool { return list(e) && e.Query == "ns=registry.example" }
			if got, _ := mirror.Count(told); (got > 0) != tc.mirrorAsked {
				t.Errorf("the mirror was asked %d times", got)
			}
			if got, _ := origin.Count(list); (got > 0) != tc.originAsked {
				t.Errorf("the origin was asked %d times", got)
			}
		})
	}
}

// TestRedirectToALoginPage on another host (section 2.6): the fallback tag is
// asked then, and the page never sees the registry's credentials.
func TestRedirectToALoginPage(t *testing.T) {
	t.Parallel()
	var visits, secrets atomic.Int32
	login := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		visits.Add(1)
		if req.Header.Get("Authorization") != "" || req.Header.Get("Cookie") != "" {
			secrets.Add(1)
		}
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = w.Write([]byte("<html>please log in</html>"))
	}))
	defer login.Close()
	reg := regtest.New(t, regtest.Options{Auth: regtest.Auth{Kind: regtest.AuthToken, Username: "u", Password: "p"}})
	img := putImage(t, reg, "app", "1", regtest.ImageSpec{})
	d := form{artifactType: typeNative, layers: 2}.attach(t, reg, "app", img.Descriptor)
	d.ArtifactType = typeNative
	listInTag(t, reg, img.Descriptor.Digest, d)
	reg.Inject(regtest.Fault{Match: regtest.Path("/referrers/"), Status: 302, Header: http.Header{"Location": {login.URL + "/signin"}}})
	n := newNegotiator(t, negotiate.Options{})
	for range 2 {
		p, err := n.Plan(t.Context(), negotiate.Request{
			Reference: reg.Ref("app", "1"), Platform: amd64, Credentials: registry.Credentials{Username: "u", Password: "p"},
		})
		if err != nil || !p.Lazy() || p.Chosen.Found != negotiate.FoundTagSchema {
			t.Fatalf("%v, %+v", err, p)
		}
	}
	if visits.Load() != 1 || secrets.Load() != 0 {
		t.Errorf("%d visits to the login page, %d with credentials", visits.Load(), secrets.Load())
	}
}

// TestRetryAfter (section 2.6): a registry that asks for a moment gets it, once,
// within the time there is.
func TestRetryAfter(t *testing.T) {
	t.Parallel()
	date := time.Now().Add(-time.Minute).UTC().Format(http.TimeFormat)
	for name, tc := range map[string]struct {
		value string
		times int // 0: always
		want  bool
	}{
		"at once":             {"0", 1, true},
		"in a second":         {"1", 1, true},
		"a date that is over": {date, 1, true},
		"twice":               {"0", 2, false},
		"an hour":             {"3600", 1, false},
		"a date next year":    {time.Now().Add(8000 * time.Hour).UTC().Format(http.TimeFormat), 1, false},
		"negative":            {"-1", 1, false},
		"nonsense":            {"soon", 1, false},
		"nothing":             {"", 1, false},
		"a number too large":  {"99999999999999999999", 1, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reg := regtest.New(t, regtest.Options{})
			img := putImage(t, reg, "app", "1", regtest.ImageSpec{})
			form{artifactType: typeNative, layers: 2}.attach(t, reg, "app", img.Descriptor)
			fault := retryAfter(tc.value, tc.times)
			fault.Match = regtest.Path("/referrers/")
			reg.Inject(*fault)
			p := plan(t, newNegotiator(t, negotiate.Options{DiscoveryTimeout: 20 * time.Second}), reg.Ref("app", "1"))
			if p.Lazy() != tc.want || !tc.want && p.Reason != reason.RegistryError {
				t.Errorf("%s: %s", p.Reason, p.Detail)
			}
		})
	}
}

// TestNamelessEntriesCostEightFetches: a list by old clients says nothing of
// what its entries are (section 2.5).
func TestNamelessEntriesCostEightFetches(t *testing.T) {
	t.Parallel()
	reg := regtest.New(t, regtest.Options{Features: &regtest.Features{}})
	img := putImage(t, reg, "app", "1", regtest.ImageSpec{})
	var entries []ocispec.Descriptor
	fetched := map[string]bool{}
	for i := range 20 {
		d := form{artifactType: "application/spdx+json", layers: 2, change: func(m map[string]any) { m["x"] = i }}.attach(t, reg, "app", img.Descriptor)
		entries, fetched["/v2/app/manifests/"+d.Digest.String()] = append(entries, d), true
	}
	listInTag(t, reg, img.Descriptor.Digest, entries...)
	p := plan(t, newNegotiator(t, negotiate.Options{}), reg.Ref("app", "1"))
	if n, _ := reg.Count(func(e regtest.Entry) bool { return fetched[e.Path] }); n != 8 || p.Lazy() || len(p.Rejected) != 20 {
		t.Errorf("%d fetched, %d rejected: %s: %s", n, len(p.Rejected), p.Reason, p.Detail)
	}
}

// TestRawDigestInThePath (section 2.1): the colon of a digest is not escaped,
// which some front ends do not undo.
func TestRawDigestInThePath(t *testing.T) {
	t.Parallel()
	var paths []string
	front := make(chan string, 16)
	reg := regtest.New(t, regtest.Options{})
	img := putImage(t, reg, "app", "1", regtest.ImageSpec{})
	reg.Inject(regtest.Fault{Match: func(req *http.Request) bool {
		front <- req.RequestURI
		return false
	}})
	plan(t, newNegotiator(t, negotiate.Options{}), reg.Ref("app", "1"))
	close(front)
	want := "/v2/app/referrers/" + img.Descriptor.Digest.String()
	for uri := range front {
		if uri == want {
			return
		}
		paths = append(paths, uri)
	}
	t.Errorf("not asked: %s; but %q", want, paths)
}

// TestIndexIsAskedAboutLast (section 0): first what can be attached, the
// platform's manifest, then the index.
func TestIndexIsAskedAboutLast(t *testing.T) {
	t.Parallel()
	reg := regtest.New(t, regtest.Options{})
	img := putImage(t, reg, "app", "", regtest.ImageSpec{})
	index, err := reg.PutIndex("app", "1", img)
	if err != nil {
		t.Fatal(err)
	}
	p := plan(t, newNegotiator(t, negotiate.Options{}), reg.Ref("app", "1"))
	var asked []digest.Digest
	for _, path := range requests(reg) {
		if _, d, found := strings.Cut(path, "/referrers/"); found {
			asked = append(asked, digest.Digest(d))
		}
	}
	if len(asked) != 2 || asked[0] != img.Descriptor.Digest || asked[1] != index.Digest || p.Reason != reason.NoReferrers {
		t.Errorf("asked about %v: %s: %s", asked, p.Reason, p.Detail)
	}
}

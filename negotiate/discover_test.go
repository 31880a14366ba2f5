package negotiate_test

import (
	"bytes"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/internal/regtest"
	"github.com/referee-cri/referee/negotiate"
)

// tagOf is the fallback tag of a SHA-256 digest.
func tagOf(d digest.Digest) string { return strings.Replace(d.String(), ":", "-", 1) }

// listInTag writes the fallback tag of subject in repository app.
func listInTag(t *testing.T, reg *regtest.Registry, subject digest.Digest, entries ...ocispec.Descriptor) {
	t.Helper()
	listUnder(t, reg, tagOf(subject), entries...)
}

// listUnder writes a list of referrers under a tag of repository app.
func listUnder(t *testing.T, reg *regtest.Registry, tag string, entries ...ocispec.Descriptor) {
	t.Helper()
	_, err := reg.PutJSON("app", tag, ocispec.MediaTypeImageIndex, map[string]any{
		"schemaVersion": 2, "mediaType": ocispec.MediaTypeImageIndex, "manifests": entries,
	})
	if err != nil {
		t.Fatal(err)
	}
}

func answer(status int, mediaType, body string) regtest.Fault {
	return regtest.Fault{Status: status, Header: http.Header{"Content-Type": {mediaType}}, Body: []byte(body)}
}

// TestAnswersOfTheReferrersAPI goes through the ways in which registries answer
// GET /v2/<name>/referrers/<digest>. The form is listed by the API and under the
// fallback tag, so what was believed shows in how it was found.
func TestAnswersOfTheReferrersAPI(t *testing.T) {
	t.Parallel()
	const nothing, api, tag = "", string(negotiate.FoundReferrersAPI), string(negotiate.FoundTagSchema)
	html := "<html>please log in</html>"
	for name, tc := range map[string]struct {
		fault *regtest.Fault // strikes the API's list
		want  string
		code  reason.Code // where nothing is found
	}{
		// 2.1, 2.6: 200 and an index, under one name or another.
		"index":                     {nil, api, ""},
		"index as application/json": {contentType("application/json; charset=utf-8"), api, ""},
		"index as Docker list":      {contentType("application/vnd.docker.distribution.manifest.list.v2+json"), api, ""},
		// 2.6: 200 and something else.
		"web page":                    {ptr(answer(200, "text/html", html)), tag, ""},
		"index as web page":           {contentType("text/html"), tag, ""},
		"other JSON":                  {ptr(answer(200, "application/json", `{"schemaVersion":2}`)), tag, ""},
		"JSON without schema version": {ptr(answer(200, "application/json", `{"manifests":[]}`)), tag, ""},
		// 2.1: nothing is attached.
		"null list":  {ptr(answer(200, ocispec.MediaTypeImageIndex, `{"schemaVersion":2,"manifests":null}`)), nothing, reason.NoReferrers},
		"empty list": {ptr(answer(200, ocispec.MediaTypeImageIndex, `{"schemaVersion":2,"manifests":[]}`)), nothing, reason.NoReferrers},
		// A list that cannot be read.
		"broken JSON":          {ptr(answer(200, ocispec.MediaTypeImageIndex, `{"schemaVersion":2,"manif`)), nothing, reason.RegistryError},
		"list that is no list": {ptr(answer(200, ocispec.MediaTypeImageIndex, `{"schemaVersion":2,"manifests":{}}`)), nothing, reason.RegistryError},
		// 2.6: not for us, not here, not known.
		"401":              {ptr(answer(401, "application/json", `{}`)), tag, ""},
		"403":              {ptr(answer(403, "application/json", `{}`)), tag, ""},
		"404":              {ptr(answer(404, "text/plain", `404 page not found`)), tag, ""},
		"404 name unknown": {ptr(answer(404, "application/json", `{"errors":[{"code":"NAME_UNKNOWN"}]}`)), tag, ""},
		"400":              {ptr(answer(400, "application/json", `{}`)), tag, ""},
		"405":              {ptr(answer(405, "application/json", `{}`)), tag, ""},
		"406":              {ptr(answer(406, "application/json", `{}`)), tag, ""},
		"501":              {ptr(answer(501, "application/json", `{}`)), tag, ""},
		// 2.6: out of order.
		"500": {ptr(answer(500, "application/json", `{}`)), nothing, reason.RegistryError},
		"503": {ptr(answer(503, "application/json", `{}`)), nothing, reason.RegistryError},
		// 2.6: too many requests.
		"429 without a time":    {ptr(answer(429, "application/json", `{}`)), nothing, reason.RegistryError},
		"429 for an hour":       {retryAfter("3600", 0), nothing, reason.RegistryError},
		"429 for no time, once": {retryAfter("0", 1), api, ""},
		// 2.6: no answer.
		"connection dropped": {&regtest.Fault{Drop: true}, nothing, reason.RegistryUnreachable},
		"body cut short":     {&regtest.Fault{CutAt: new(int64(20))}, nothing, reason.RegistryUnreachable},
		// 2.6: a redirect to a login page.
		"redirected to a login page":             {&regtest.Fault{Status: 302, Header: http.Header{"Location": {"/login"}}}, tag, ""},
		"redirected to a login page with status": {&regtest.Fault{Status: 307, Header: http.Header{"Location": {"/v2/"}}}, tag, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reg := regtest.New(t, regtest.Options{})
			img := putImage(t, reg, "app", "1", regtest.ImageSpec{})
			d := form{artifactType: typeNative, layers: 2}.attach(t, reg, "app", img.Descriptor)
			listInTag(t, reg, img.Descriptor.Digest, d)
			login := answer(200, "text/html", html)
			login.Match = regtest.Path("/login")
			reg.Inject(login)
			if tc.fault != nil {
				tc.fault.Match = regtest.Path("/v2/app/referrers/")
				reg.Inject(*tc.fault)
			}
			p := plan(t, newNegotiator(t, negotiate.Options{}), reg.Ref("app", "1"))
			var found string
			if p.Lazy() {
				found = string(p.Chosen.Found)
			}
			if found != tc.want || p.Reason != tc.code {
				t.Errorf("found by %q (%s: %s), want %q (%s)", found, p.Reason, p.Detail, tc.want, tc.code)
			}
		})
	}
}

func ptr(f regtest.Fault) *regtest.Fault { return &f }

func contentType(value string) *regtest.Fault {
	return &regtest.Fault{Header: http.Header{"Content-Type": {value}}}
}

func retryAfter(value string, times int) *regtest.Fault {
	return &regtest.Fault{Status: 429, Times: times, Header: http.Header{"Retry-After": {value}}}
}

func TestFallbackTag(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		change func(t *testing.T, reg *regtest.Registry, img *regtest.Image, artifact ocispec.Descriptor)
		want   bool
		code   reason.Code
	}{
		"full entry": {func(t *testing.T, reg *regtest.Registry, img *regtest.Image, d ocispec.Descriptor) {
			d.ArtifactType = typeNative
			listInTag(t, reg, img.Descriptor.Digest, d)
		}, true, ""},
		"entry of an old client, without artifact type": {func(t *testing.T, reg *regtest.Registry, img *regtest.Image, d ocispec.Descriptor) {
			listInTag(t, reg, img.Descriptor.Digest, d)
		}, true, ""},
		"absent": {func(*testing.T, *regtest.Registry, *regtest.Image, ocispec.Descriptor) {}, false, reason.NoReferrers},
		"an image under the tag": {func(t *testing.T, reg *regtest.Registry, img *regtest.Image, _ ocispec.Descriptor) {
			putImage(t, reg, "app", tagOf(img.Descriptor.Digest), regtest.ImageSpec{Seed: 9})
		}, false, reason.NoReferrers},
		"cosign's tags are something else": {func(t *testing.T, reg *regtest.Registry, img *regtest.Image, _ ocispec.Descriptor) {
			putImage(t, reg, "app", tagOf(img.Descriptor.Digest)+".sig", regtest.ImageSpec{Seed: 9})
		}, false, reason.NoReferrers},
		"digest header lies": {func(t *testing.T, reg *regtest.Registry, img *regtest.Image, d ocispec.Descriptor) {
			listInTag(t, reg, img.Descriptor.Digest, d)
			reg.Inject(regtest.Fault{Match: regtest.Path("/manifests/sha256-"), Header: http.Header{"Docker-Content-Digest": {img.Descriptor.Digest.String()}}})
		}, false, reason.DigestMismatch},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reg := regtest.New(t, regtest.Options{Features: &regtest.Features{}})
			img := putImage(t, reg, "app", "1", regtest.ImageSpec{})
			d := form{artifactType: typeNative, layers: 2}.attach(t, reg, "app", img.Descriptor)
			tc.change(t, reg, img, d)
			p := plan(t, newNegotiator(t, negotiate.Options{}), reg.Ref("app", "1"))
			if p.Lazy() != tc.want || p.Reason != tc.code {
				t.Errorf("lazy %t (%s: %s), want %t (%s)", p.Lazy(), p.Reason, p.Detail, tc.want, tc.code)
			}
		})
	}
}

func TestLegacyEndpoints(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		features regtest.Features
		mode     negotiate.LegacyMode
		fault    *regtest.Fault
		want     negotiate.Discovery
	}{
		"second version":             {regtest.Features{ORASv2: true}, negotiate.LegacyOn, nil, negotiate.FoundORASv2},
		"first version":              {regtest.Features{ORASv1: true}, negotiate.LegacyOn, nil, negotiate.FoundORASv1},
		"newer one first":            {regtest.Features{ORASv2: true, ORASv1: true}, negotiate.LegacyOn, nil, negotiate.FoundORASv2},
		"with the OCI API beside it": {regtest.Features{ORASv1: true, Referrers: true}, negotiate.LegacyOn, nil, negotiate.FoundORASv1},
		"off":                        {regtest.Features{ORASv1: true, ORASv2: true}, negotiate.LegacyOff, nil, ""},
		"minor version":              {regtest.Features{ORASv2: true}, negotiate.LegacyOn, version("oras/1.7"), negotiate.FoundORASv2},
		"no version":                 {regtest.Features{ORASv2: true}, negotiate.LegacyOn, version(""), negotiate.FoundORASv2},
		"major version":              {regtest.Features{ORASv2: true}, negotiate.LegacyOn, version("oras/2.0"), ""},
		"the other's list key":       {regtest.Features{ORASv1: true}, negotiate.LegacyOn, &regtest.Fault{Match: regtest.Path("/oras/"), Rewrite: func(b []byte) []byte { return bytes.Replace(b, []byte("references"), []byte("referrers"), 1) }}, negotiate.FoundORASv1},
		"API out of order":           {regtest.Features{ORASv2: true, Referrers: true}, negotiate.LegacyOn, &regtest.Fault{Match: regtest.Path("/app/referrers/"), Status: 500}, negotiate.FoundORASv2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tc.features.ORASPush = true
			reg := regtest.New(t, regtest.Options{Features: &tc.features})
			img := putImage(t, reg, "app", "1", regtest.ImageSpec{})
			form{artifactType: typeDADI, layers: 2, trace: true, orasPush: true}.attach(t, reg, "app", img.Descriptor)
			if tc.fault != nil {
				reg.Inject(*tc.fault)
			}
			p := plan(t, newNegotiator(t, negotiate.Options{Policy: legacy(tc.mode)}), reg.Ref("app", "1"))
			if tc.want == "" {
				if p.Lazy() {
					t.Errorf("found by %s", p.Chosen.Found)
				}
				return
			}
			if !p.Lazy() {
				t.Fatalf("not found: %s: %s: %q", p.Reason, p.Detail, requests(reg))
			}
			if p.Chosen.Found != tc.want || len(p.Chosen.Layers) != 2 || len(p.Chosen.Tables) != 1 || p.Chosen.Config == nil {
				t.Errorf("chosen %+v", p.Chosen)
			}
		})
	}
}

func version(value string) *regtest.Fault {
	return &regtest.Fault{Match: regtest.Path("/_oras/"), Header: http.Header{"Oras-Api-Version": {value}}}
}

func TestOrdinaryRegistriesAreNotAskedForLegacy(t *testing.T) {
	t.Parallel()
	for name, mode := range map[string]negotiate.LegacyMode{"off": negotiate.LegacyOff, "auto, API answers": negotiate.LegacyAuto} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reg := regtest.New(t, regtest.Options{})
			img := putImage(t, reg, "app", "1", regtest.ImageSpec{})
			form{artifactType: typeNative, layers: 2}.attach(t, reg, "app", img.Descriptor)
			plan(t, newNegotiator(t, negotiate.Options{Policy: legacy(mode)}), reg.Ref("app", "1"))
			if n, _ := reg.Count(func(e regtest.Entry) bool { return strings.Contains(e.Path, "oras") }); n != 0 {
				t.Errorf("%d legacy requests: %q", n, requests(reg))
			}
		})
	}
}

func TestHangingDiscoveryCostsItsTimeOnly(t *testing.T) {
	t.Parallel()
	for name, path := range map[string]string{"list": "/referrers/", "artifact": "/manifests/sha256:"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reg := regtest.New(t, regtest.Options{})
			img := putImage(t, reg, "app", "1", regtest.ImageSpec{})
			form{artifactType: typeNative, layers: 2}.attach(t, reg, "app", img.Descriptor)
			defer reg.Inject(regtest.Fault{Match: regtest.Path(path), Hang: true})()
			n := newNegotiator(t, negotiate.Options{DiscoveryTimeout: 200 * time.Millisecond})
			start := time.Now()
			p := plan(t, n, reg.Ref("app", "1"))
			if p.Lazy() || p.Reason != reason.BudgetExceeded || len(p.Image.ChainIDs) != 2 {
				t.Errorf("%s: %s, %d chain IDs", p.Reason, p.Detail, len(p.Image.ChainIDs))
			}
			if took := time.Since(start); took > 10*time.Second {
				t.Errorf("took %s", took)
			}
		})
	}
}

func TestDiscoveryIsRemembered(t *testing.T) {
	t.Parallel()
	var offset atomic.Int64
	n := newNegotiator(t, negotiate.Options{Now: func() time.Time { return time.Unix(offset.Load(), 0) }})
	reg := regtest.New(t, regtest.Options{})
	img := putImage(t, reg, "app", "1", regtest.ImageSpec{})
	asked := func() int {
		count, _ := reg.Count(func(e regtest.Entry) bool { return strings.Contains(e.Path, "/referrers/") })
		return count
	}
	expect := func(when string, lazy bool, lists int) {
		t.Helper()
		if p := plan(t, n, reg.Ref("app", "1")); p.Lazy() != lazy {
			t.Errorf("%s: lazy %t (%s)", when, p.Lazy(), p.Reason)
		}
		if got := asked(); got != lists {
			t.Errorf("%s: %d lists asked for, want %d", when, got, lists)
		}
	}
	expect("nothing attached", false, 1)
	form{artifactType: typeNative, layers: 2}.attach(t, reg, "app", img.Descriptor)
	expect("absence is remembered", false, 1)
	offset.Add(60)
	expect("absence is a soft fact", true, 2)
	offset.Add(240)
	expect("presence is remembered longer", true, 2)
	offset.Add(120)
	expect("but not for ever", true, 3)
}

func TestLackOfTheAPIIsRememberedForTheProject(t *testing.T) {
	t.Parallel()
	var offset atomic.Int64
	n := newNegotiator(t, negotiate.Options{Now: func() time.Time { return time.Unix(offset.Load(), 0) }})
	reg := regtest.New(t, regtest.Options{Features: &regtest.Features{}})
	asked := func() int {
		count, _ := reg.Count(func(e regtest.Entry) bool { return strings.Contains(e.Path, "/referrers/") })
		return count
	}
	for _, step := range []struct {
		repo    string
		advance int64
		want    int
	}{{"lab/a", 0, 1}, {"lab/b", 0, 1}, {"proxy/a", 0, 2}, {"lab/c", 3601, 3}} {
		offset.Add(step.advance)
		putImage(t, reg, step.repo, "1", regtest.ImageSpec{})
		plan(t, n, reg.Ref(step.repo, "1"))
		if got := asked(); got != step.want {
			t.Errorf("after %s: the API was asked %d times, want %d", step.repo, got, step.want)
		}
	}
}

func TestFailuresAreNotRemembered(t *testing.T) {
	t.Parallel()
	n := newNegotiator(t, negotiate.Options{})
	reg := regtest.New(t, regtest.Options{})
	img := putImage(t, reg, "app", "1", regtest.ImageSpec{})
	form{artifactType: typeNative, layers: 2}.attach(t, reg, "app", img.Descriptor)
	remove := reg.Inject(regtest.Fault{Match: regtest.Path("/referrers/"), Status: 503})
	if p := plan(t, n, reg.Ref("app", "1")); p.Lazy() {
		t.Error("found although the registry failed")
	}
	remove()
	if p := plan(t, n, reg.Ref("app", "1")); !p.Lazy() {
		t.Errorf("not found after the registry recovered: %s", p.Reason)
	}
}

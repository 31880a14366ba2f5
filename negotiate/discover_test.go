package negotiate_test

import (
	"bytes"
	"encoding/json"
	"fmt"
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
	_, err := reg.PutJSON("app", tagOf(subject), ocispec.MediaTypeImageIndex, map[string]any{
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
		"index":                                  {nil, api, ""},
		"index as application/json":              {contentType("application/json; charset=utf-8"), api, ""},
		"index as Docker list":                   {contentType("application/vnd.docker.distribution.manifest.list.v2+json"), api, ""},
		"web page":                               {ptr(answer(200, "text/html", html)), tag, ""},
		"index as web page":                      {contentType("text/html"), tag, ""},
		"other JSON":                             {ptr(answer(200, "application/json", `{"schemaVersion":2}`)), tag, ""},
		"JSON without schema version":            {ptr(answer(200, "application/json", `{"manifests":[]}`)), tag, ""},
		"null list":                              {ptr(answer(200, ocispec.MediaTypeImageIndex, `{"schemaVersion":2,"manifests":null}`)), nothing, reason.NoReferrers},
		"empty list":                             {ptr(answer(200, ocispec.MediaTypeImageIndex, `{"schemaVersion":2,"manifests":[]}`)), nothing, reason.NoReferrers},
		"broken JSON":                            {ptr(answer(200, ocispec.MediaTypeImageIndex, `{"schemaVersion":2,"manif`)), nothing, reason.RegistryError},
		"list that is no list":                   {ptr(answer(200, ocispec.MediaTypeImageIndex, `{"schemaVersion":2,"manifests":{}}`)), nothing, reason.RegistryError},
		"401":                                    {ptr(answer(401, "application/json", `{}`)), tag, ""},
		"403":                                    {ptr(answer(403, "application/json", `{}`)), tag, ""},
		"404":                                    {ptr(answer(404, "text/plain", `404 page not found`)), tag, ""},
		"404 name unknown":                       {ptr(answer(404, "application/json", `{"errors":[{"code":"NAME_UNKNOWN"}]}`)), tag, ""},
		"400":                                    {ptr(answer(400, "application/json", `{}`)), tag, ""},
		"405":                                    {ptr(answer(405, "application/json", `{}`)), tag, ""},
		"406":                                    {ptr(answer(406, "application/json", `{}`)), tag, ""},
		"501":                                    {ptr(answer(501, "application/json", `{}`)), tag, ""},
		"500":                                    {ptr(answer(500, "application/json", `{}`)), nothing, reason.RegistryError},
		"503":                                    {ptr(answer(503, "application/json", `{}`)), nothing, reason.RegistryError},
		"429 without a time":                     {ptr(answer(429, "application/json", `{}`)), nothing, reason.RegistryError},
		"429 for an hour":                        {retryAfter("3600", 0), nothing, reason.RegistryError},
		"429 for no time, once":                  {retryAfter("0", 1), api, ""},
		"connection dropped":                     {&regtest.Fault{Drop: true}, nothing, reason.RegistryUnreachable},
		"body cut short":                         {&regtest.Fault{CutAt: new(int64(20))}, nothing, reason.RegistryUnreachable},
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
			if p.Chosen.Found != tc.want || len(p.Chosen.Layers) != 2 || p.Chosen.Prefetch == nil || p.Chosen.Config == nil {
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

func TestEveryPageIsRead(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		features regtest.Features
		oras     bool
	}{
		"OCI, Link":          {regtest.Features{Referrers: true, PageSize: 3}, false},
		"ORAS v2, Link":      {regtest.Features{ORASv2: true, PageSize: 1}, true},
		"ORAS v1, Link":      {regtest.Features{ORASv1: true, PageSize: 1}, true},
		"ORAS v1, @nextLink": {regtest.Features{ORASv1: true, ORASNextLink: true, PageSize: 1}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tc.features.ORASPush = true
			reg := regtest.New(t, regtest.Options{Features: &tc.features})
			img := putImage(t, reg, "app", "1", regtest.ImageSpec{})
			f := form{artifactType: typeNative, layers: 2}
			if tc.oras {
				f.artifactType, f.orasPush = typeDADI, true
			}
			for i := range 10 {
				other := f
				other.change = func(m map[string]any) { m["artifactType"], m["x"] = "application/spdx+json", i }
				if tc.oras { // the registry filters there: other forms of the same type
					other.change = func(m map[string]any) { m["x"] = i }
				}
				other.attach(t, reg, "app", img.Descriptor)
			}
			last := f
			last.created = "2026-01-01T00:00:00Z" // newest
			want := last.attach(t, reg, "app", img.Descriptor)
			p := plan(t, newNegotiator(t, negotiate.Options{Policy: legacy(negotiate.LegacyOn)}), reg.Ref("app", "1"))
			if !p.Lazy() || p.Chosen.Artifact.Digest != want.Digest {
				t.Errorf("%s: %s, chosen %+v", p.Reason, p.Detail, p.Chosen)
			}
			if len(p.Rejected) != 10 {
				t.Errorf("%d rejected, want 10", len(p.Rejected))
			}
		})
	}
}

// TestHostilePages never ends with an error, and what was listed before is used.
func TestHostilePages(t *testing.T) {
	t.Parallel()
	foreign := regtest.New(t, regtest.Options{})
	for name, link := range map[string]string{
		"other origin":      `<` + foreign.URL() + `/v2/app/referrers/x>; rel="next"`,
		"other origin, //":  `<//` + foreign.Host() + `/v2/>; rel="next"`,
		"other scheme":      `<https://HOST/v2/app/referrers/x>; rel="next"`,
		"with user":         `<http://user@HOST/v2/app/referrers/x>; rel="next"`,
		"itself":            `<>; rel="next"`,
		"not a list":        `</v2/>; rel="next"`,
		"no URL":            `<http://[::1>; rel="next"`,
		"file":              `<file:///etc/passwd>; rel="next"`,
		"a page of nothing": `</v2/app/tags/list>; rel="next"`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reg := regtest.New(t, regtest.Options{})
			img := putImage(t, reg, "app", "1", regtest.ImageSpec{})
			want := form{artifactType: typeNative, layers: 2}.attach(t, reg, "app", img.Descriptor)
			reg.Inject(regtest.Fault{
				Match: regtest.Path("/referrers/"), Header: http.Header{"Link": {strings.Replace(link, "HOST", reg.Host(), 1)}},
			})
			p := plan(t, newNegotiator(t, negotiate.Options{}), reg.Ref("app", "1"))
			if !p.Lazy() || p.Chosen.Artifact.Digest != want.Digest {
				t.Errorf("%s: %s", p.Reason, p.Detail)
			}
			if n := foreign.Connections(); n != 0 {
				t.Errorf("%d connections to another origin", n)
			}
		})
	}
}

func TestEndlessPagesEnd(t *testing.T) {
	t.Parallel()
	reg := regtest.New(t, regtest.Options{})
	img := putImage(t, reg, "app", "1", regtest.ImageSpec{})
	reg.Inject(regtest.Fault{Match: regtest.Path("/referrers/"), Status: 200, Header: http.Header{
		"Content-Type": {ocispec.MediaTypeImageIndex}, "Link": {`<?more=1>; rel="next"`},
	}, Body: []byte(`{"schemaVersion":2,"manifests":[]}`)})
	for i := range 100 { // each page names another one
		reg.Inject(regtest.Fault{Match: func(req *http.Request) bool {
			return req.URL.Query().Get("more") == fmt.Sprint(i)
		}, Status: 200, Header: http.Header{
			"Content-Type": {ocispec.MediaTypeImageIndex}, "Link": {fmt.Sprintf(`<?more=%d>; rel="next"`, i+1)},
		}, Body: []byte(`{"schemaVersion":2,"manifests":[]}`)})
	}
	p := plan(t, newNegotiator(t, negotiate.Options{}), reg.Ref("app", "1"))
	if p.Lazy() || p.Reason != reason.RegistryError {
		t.Errorf("%s: %s", p.Reason, p.Detail)
	}
	if n, _ := reg.Count(func(e regtest.Entry) bool { return strings.Contains(e.Path, img.Descriptor.Digest.String()) }); n > 16 {
		t.Errorf("%d pages were read, more than 16", n)
	}
}

func TestHugeListsAreBounded(t *testing.T) {
	t.Parallel()
	big := func(entries int) []byte {
		list := make([]map[string]any, entries)
		for i := range list {
			list[i] = map[string]any{
				"mediaType": ocispec.MediaTypeImageManifest, "digest": digest.FromString(fmt.Sprint(i)), "size": 3, "artifactType": typeNative,
			}
		}
		body, err := json.Marshal(map[string]any{"schemaVersion": 2, "manifests": list})
		if err != nil {
			t.Fatal(err)
		}
		return body
	}
	for name, tc := range map[string]struct {
		body []byte
		code reason.Code
	}{
		"5000 entries":       {big(5000), reason.NotFound},                               // as far as the cap, none of them exists
		"a page over 4 MiB":  {bytes.Repeat([]byte(" "), 4<<20+1), reason.RegistryError}, // not parsed at all
		"a page of brackets": {bytes.Repeat([]byte("["), 1<<20), reason.RegistryError},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reg := regtest.New(t, regtest.Options{})
			putImage(t, reg, "app", "1", regtest.ImageSpec{})
			fault := answer(200, ocispec.MediaTypeImageIndex, string(tc.body))
			fault.Match = regtest.Path("/referrers/")
			reg.Inject(fault)
			p := plan(t, newNegotiator(t, negotiate.Options{}), reg.Ref("app", "1"))
			if p.Lazy() || p.Reason != tc.code {
				t.Errorf("%s: %s", p.Reason, p.Detail)
			}
			if n, _ := reg.Count(nil); n > 12 {
				t.Errorf("%d requests", n)
			}
			if len(p.Rejected) > 1000 {
				t.Errorf("%d rejections", len(p.Rejected))
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

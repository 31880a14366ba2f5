package negotiate_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/internal/regtest"
	"github.com/referee-cri/referee/negotiate"
)

// TestLinksToTheNextPage goes through the forms of RFC 8288 (specification,
// sections 1.3 and 2.3). The first page is empty, which says nothing; the form is
// on the second.
func TestLinksToTheNextPage(t *testing.T) {
	t.Parallel()
	const page = "/v2/app/referrers/DIGEST?page=2"
	for name, tc := range map[string]struct {
		links []string
		query string // of the second request; "": page=2
	}{
		"relative":               {[]string{`<` + page + `>; rel="next"`}, ""},
		"query alone":            {[]string{`<?page=2>; rel="next"`}, ""},
		"relative to the path":   {[]string{`<./DIGEST?page=2>; rel="next"`}, ""},
		"absolute":               {[]string{`<http://HOST` + page + `>; rel="next"`}, ""},
		"without scheme":         {[]string{`<//HOST` + page + `>; rel="next"`}, ""},
		"relation not quoted":    {[]string{`<` + page + `>; rel=next`}, ""},
		"relation in capitals":   {[]string{`<` + page + `>; REL="NEXT"`}, ""},
		"other parameters first": {[]string{`<` + page + `>; title="a, b; rel=prev"; rel="next"`}, ""},
		"several relations":      {[]string{`<` + page + `>; rel="last next"`}, ""},
		"several links in one":   {[]string{`</v2/>; rel="first", <` + page + `>; rel="next", </v2/>; rel="last"`}, ""},
		"several headers":        {[]string{`</v2/>; rel="first"`, `<` + page + `>; rel="next"`}, ""},
		"opaque token":           {[]string{`<` + page + `&nextToken=a%2Bb%2F%3D%3D>; rel="next"`}, "nextToken=a%2Bb%2F%3D%3D&page=2"},
		"n is added":             {[]string{`<` + page + `&n=5>; rel="next"`}, "n=5&page=2"},
		"a fragment":             {[]string{`<` + page + `#x>; rel="next"`}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reg := regtest.New(t, regtest.Options{})
			img := putImage(t, reg, "app", "1", regtest.ImageSpec{})
			form{artifactType: typeNative, layers: 2}.attach(t, reg, "app", img.Descriptor)
			first := answer(200, ocispec.MediaTypeImageIndex, `{"schemaVersion":2,"manifests":[]}`)
			first.Match = func(req *http.Request) bool {
				return strings.Contains(req.URL.Path, "/referrers/") && req.URL.Query().Get("page") == ""
			}
			fill := strings.NewReplacer("HOST", reg.Host(), "DIGEST", img.Descriptor.Digest.String())
			for _, link := range tc.links {
				first.Header.Add("Link", fill.Replace(link))
			}
			reg.Inject(first)
			p := plan(t, newNegotiator(t, negotiate.Options{}), reg.Ref("app", "1"))
			if !p.Lazy() {
				t.Fatalf("%s: %s: %q", p.Reason, p.Detail, requests(reg))
			}
			if tc.query == "" {
				tc.query = "page=2"
			}
			if want := fill.Replace("/v2/app/referrers/DIGEST?") + tc.query; !slices.Contains(requests(reg), want) {
				t.Errorf("not asked: %s; but %q", want, requests(reg))
			}
		})
	}
}

// TestPagesWithoutEndAreCut lists a hundred new entries a page.
func TestPagesWithoutEndAreCut(t *testing.T) {
	t.Parallel()
	reg := regtest.New(t, regtest.Options{})
	putImage(t, reg, "app", "1", regtest.ImageSpec{})
	for page := range 20 {
		list := make([]ocispec.Descriptor, 100)
		for i := range list {
			list[i] = blob(ocispec.MediaTypeImageManifest, fmt.Sprint(page, "/", i), nil)
			list[i].ArtifactType = "application/spdx+json"
		}
		body, err := json.Marshal(map[string]any{"schemaVersion": 2, "manifests": list})
		if err != nil {
			t.Fatal(err)
		}
		fault := answer(200, ocispec.MediaTypeImageIndex, string(body))
		fault.Header.Set("Link", fmt.Sprintf(`<?page=%d>; rel="next"`, page+1))
		fault.Match = func(req *http.Request) bool {
			at := req.URL.Query().Get("page")
			return strings.Contains(req.URL.Path, "/referrers/") && (at == fmt.Sprint(page) || at == "" && page == 0)
		}
		reg.Inject(fault)
	}
	p := plan(t, newNegotiator(t, negotiate.Options{}), reg.Ref("app", "1"))
	if p.Reason != reason.RegistryError || len(p.Rejected) != 1000 {
		t.Errorf("%s: %s, %d rejected", p.Reason, p.Detail, len(p.Rejected))
	}
	if n, _ := reg.Count(func(e regtest.Entry) bool { return strings.Contains(e.Path, "/referrers/") }); n != 10 {
		t.Errorf("%d pages were read", n)
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

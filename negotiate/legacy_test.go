package negotiate_test

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/internal/eventually"
	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/internal/regtest"
	"github.com/referee-cri/referee/negotiate"
)

const orasAlias = "application/vnd.oras.artifact.manifest.v1+json"

// TestBodiesOfORASArtifacts goes through what tools of each draft wrote
// (specification, section 1.1).
func TestBodiesOfORASArtifacts(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		change func(m map[string]any)
		code   reason.Code
	}{
		"1.1 rc.2":                          {func(map[string]any) {}, ""},
		"1.1 draft.1: no media type":        {func(m map[string]any) { delete(m, "mediaType") }, ""},
		"1.1 other media type":              {func(m map[string]any) { m["mediaType"] = ocispec.MediaTypeImageManifest }, reason.ArtifactInvalid},
		"1.1 no artifact type":              {func(m map[string]any) { delete(m, "artifactType") }, reason.ArtifactInvalid},
		"1.1 no blobs: null":                {func(m map[string]any) { m["blobs"] = nil }, reason.ArtifactInvalid},
		"1.1 no blobs: absent":              {func(m map[string]any) { delete(m, "blobs") }, reason.ArtifactInvalid},
		"1.1 no blobs: empty":               {func(m map[string]any) { m["blobs"] = []int{} }, reason.ArtifactInvalid},
		"1.1 subject left out":              {func(m map[string]any) { delete(m, "subject") }, reason.SubjectMismatch},
		"1.1 rc.1: subject left out":        {func(m map[string]any) { m["subject"] = map[string]any{"digest": "", "size": 0} }, reason.SubjectMismatch},
		"1.1 members of an image, no layer": {func(m map[string]any) { m["layers"] = []int{} }, reason.ArtifactInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reg := regtest.New(t, regtest.Options{Features: &regtest.Features{ORASv2: true, ORASPush: true}})
			img := putImage(t, reg, "app", "1", regtest.ImageSpec{})
			d := form{artifactType: typeDADI, layers: 2, orasPush: true, change: tc.change}.attach(t, reg, "app", img.Descriptor)
			listORAS(reg, "referrers", d)
			p := plan(t, newNegotiator(t, negotiate.Options{Policy: legacy(negotiate.LegacyOn)}), reg.Ref("app", "1"))
			if p.Reason != tc.code || p.Lazy() != (tc.code == "") {
				t.Errorf("%s: %s, want %s", p.Reason, p.Detail, tc.code)
			}
		})
	}
}

// listORAS makes the endpoint of rc.1 list d under key whatever d names as its subject.
func listORAS(reg *regtest.Registry, key string, d ocispec.Descriptor) {
	list := answer(200, "application/json", fmt.Sprintf(`{%q:[{"mediaType":%q,"digest":%q,"size":%d,"artifactType":%q}]}`, key, d.MediaType, d.Digest, d.Size, typeDADI))
	list.Match = regtest.Path("/_oras/")
	reg.Inject(list)
}

// TestListsOfORASEndpoints goes through answers of both (section 1.2). The form
// is attached, and each answer is to the endpoint of rc.1.
func TestListsOfORASEndpoints(t *testing.T) {
	t.Parallel()
	const entry = `{"mediaType":"MT","digest":"DIGEST","size":SIZE,"artifactType":"dadi.image.v1"}`
	for name, tc := range map[string]struct {
		status   int
		body     string
		fallsOn  bool // to the endpoint of draft.1, where the form is
		listed   bool
		problems bool
	}{
		"1.2 referrers":                     {200, `{"referrers":[` + entry + `]}`, false, true, false},
		"1.2 references, of the other path": {200, `{"references":[` + entry + `]}`, false, true, false},
		"1.2 both keys":                     {200, `{"references":null,"referrers":[` + entry + `]}`, false, true, false},
		"1.2 both keys, the same twice":     {200, `{"references":[` + entry + `],"referrers":[` + entry + `]}`, false, true, false},
		"1.2 empty":                         {200, `{"referrers":[]}`, false, false, false},
		"1.2 null":                          {200, `{"referrers":null}`, false, false, false},
		"1.2 no list":                       {200, `{"name":"app"}`, true, true, false},
		"1.2 broken":                        {200, `{"referrers":[`, false, false, true},
		"1.2 404, endpoint is unknown":      {404, `404 page not found`, true, true, false},
		"1.2 404, nothing is attached":      {404, `{"errors":[{"code":"MANIFEST_UNKNOWN"}]}`, true, true, false},
		"1.2 400, more than one type":       {400, `{}`, true, true, false},
		"1.2 401 on a path beside /v2":      {401, `{}`, true, true, false},
		"1.2 503":                           {503, `{}`, false, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reg := regtest.New(t, regtest.Options{Features: &regtest.Features{Referrers: true, ORASv1: true, ORASPush: true}})
			img := putImage(t, reg, "app", "1", regtest.ImageSpec{})
			d := form{artifactType: typeDADI, layers: 2, orasPush: true}.attach(t, reg, "app", img.Descriptor)
			list := answer(tc.status, "application/json", strings.NewReplacer("MT", d.MediaType, "DIGEST", d.Digest.String(), "SIZE", fmt.Sprint(d.Size)).Replace(tc.body))
			list.Match = regtest.Path("/_oras/")
			reg.Inject(list)
			p := plan(t, newNegotiator(t, negotiate.Options{Policy: legacy(negotiate.LegacyOn)}), reg.Ref("app", "1"))
			if p.Lazy() != tc.listed || (p.Reason == reason.RegistryError) != tc.problems {
				t.Errorf("%s: %s, chosen %+v", p.Reason, p.Detail, p.Chosen)
			}
			if p.Lazy() && (p.Chosen.Found == negotiate.FoundORASv1) != tc.fallsOn {
				t.Errorf("found by %s", p.Chosen.Found)
			}
			if n, _ := reg.Count(func(e regtest.Entry) bool { return strings.HasPrefix(e.Path, "/oras/") }); (n > 0) != tc.fallsOn {
				t.Errorf("the older endpoint was asked %d times", n)
			}
		})
	}
}

// plusType has a type that must be escaped.
type plusType struct{ inPlace }

func (plusType) ArtifactTypes() []string { return []string{"application/vnd.example+json"} }
func (plusType) LegacyTypes() []string   { return []string{"application/vnd.example+json"} }

// TestFilterOfORASEndpoints: a single type is asked for, escaped (section 1.2); a
// raw "+" would arrive as a space. Two types cannot be asked for.
func TestFilterOfORASEndpoints(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		recognisers []negotiate.Recogniser
		attachable  func(string) error
		want        string // between "?" and the end, less the digest
	}{
		"the node reads one":     {nil, onlyOverlaybd, "artifactType=dadi.image.v1&digest=sha256%3A"},
		"the node reads several": {nil, nil, "digest=sha256%3A"},
		"plus and slash":         {[]negotiate.Recogniser{plusType{inPlace{format: "plus"}}}, nil, "artifactType=application%2Fvnd.example%2Bjson&digest=sha256%3A"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reg := regtest.New(t, regtest.Options{Features: &regtest.Features{ORASv2: true}})
			img := putImage(t, reg, "app", "1", regtest.ImageSpec{})
			plan(t, newNegotiator(t, negotiate.Options{Policy: legacy(negotiate.LegacyOn), Recognisers: tc.recognisers, Attachable: tc.attachable}), reg.Ref("app", "1"))
			want := "/v2/app/_oras/artifacts/referrers?" + tc.want + img.Descriptor.Digest.Encoded()
			if !slices.Contains(requests(reg), want) {
				t.Errorf("not asked: %s; but %q", want, requests(reg))
			}
		})
	}
}

// TestNewestFormCountsByWhateverAnnotation (section 1.1, section 3).
func TestNewestFormCountsByWhateverAnnotation(t *testing.T) {
	t.Parallel()
	for _, key := range []string{
		"org.opencontainers.image.created", "org.opencontainers.artifact.created",
		"io.cncf.oras.artifact.created", "org.cncf.oras.artifact.created",
	} {
		t.Run(key, func(t *testing.T) {
			t.Parallel()
			reg := regtest.New(t, regtest.Options{Features: &regtest.Features{ORASv2: true, ORASPush: true}})
			img := putImage(t, reg, "app", "1", regtest.ImageSpec{})
			var newest ocispec.Descriptor
			for _, year := range []string{"2021", "2024", "2022"} {
				d := form{artifactType: typeDADI, layers: 2, orasPush: true, change: func(m map[string]any) {
					m["annotations"] = map[string]string{key: year + "-03-01T00:00:00Z"}
				}}.attach(t, reg, "app", img.Descriptor)
				if year == "2024" {
					newest = d
				}
			}
			p := plan(t, newNegotiator(t, negotiate.Options{Policy: legacy(negotiate.LegacyOn)}), reg.Ref("app", "1"))
			if !p.Lazy() || p.Chosen.Artifact.Digest != newest.Digest || p.Chosen.Created.Year() != 2024 {
				t.Errorf("%s: %s, chosen %+v", p.Reason, p.Detail, p.Chosen)
			}
		})
	}
}

// TestArtifactManifestsOfOCI: the kind that was removed before 1.1 (section 3),
// and the alias in a comment of the first ORAS drafts.
func TestArtifactManifestsOfOCI(t *testing.T) {
	t.Parallel()
	for name, mediaType := range map[string]string{
		"section 3":       "application/vnd.oci.artifact.manifest.v1+json",
		"1.1 stale alias": orasAlias,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reg := regtest.New(t, regtest.Options{})
			img := putImage(t, reg, "app", "1", regtest.ImageSpec{})
			_, m := form{artifactType: typeDADI, layers: 2, orasPush: true, change: func(m map[string]any) {
				m["mediaType"] = mediaType
				m["annotations"] = map[string]string{"org.opencontainers.artifact.description": "x"}
			}}.manifest(t, reg, &img.Descriptor)
			if _, err := reg.PutJSON("app", "", mediaType, m); err != nil {
				t.Fatal(err)
			}
			p := plan(t, newNegotiator(t, negotiate.Options{}), reg.Ref("app", "1"))
			if !p.Lazy() || len(p.Chosen.Layers) != 2 || p.Chosen.Config == nil || p.Chosen.Found != negotiate.FoundReferrersAPI {
				t.Errorf("%s: %s, chosen %+v", p.Reason, p.Detail, p.Chosen)
			}
		})
	}
}

// legacyRequests counts requests of either endpoint in a repository.
func legacyRequests(reg *regtest.Registry, repo string) int {
	n, _ := reg.Count(func(e regtest.Entry) bool {
		return strings.HasPrefix(e.Path, "/oras/artifacts/v1/"+repo+"/") || strings.HasPrefix(e.Path, "/v2/"+repo+"/_oras/")
	})
	return n
}

// TestLegacyIsFoundInTheBackground (section 6): the pull that meets an unknown
// registry does not wait, the next one knows, and other images of the project
// are asked about in both ways at once from then on.
func TestLegacyIsFoundInTheBackground(t *testing.T) {
	t.Parallel()
	for name, features := range map[string]regtest.Features{
		"first version":                  {ORASv1: true},
		"second version":                 {ORASv2: true},
		"second version, beside the API": {ORASv2: true, Referrers: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			features.ORASPush = true
			reg := regtest.New(t, regtest.Options{Features: &features})
			for i, repo := range []string{"lab/a", "lab/b"} {
				img := putImage(t, reg, repo, "1", regtest.ImageSpec{Seed: int64(i)})
				form{artifactType: typeDADI, layers: 2, orasPush: true}.attach(t, reg, repo, img.Descriptor)
			}
			n := newNegotiator(t, negotiate.Options{Policy: legacy(negotiate.LegacyAuto)})
			if p := plan(t, n, reg.Ref("lab/a", "1")); p.Lazy() || p.Reason != reason.NoReferrers {
				t.Errorf("the first pull waited: %s: %s", p.Reason, p.Detail)
			}
			eventually.True(t, "the next pull knows", func() bool { return plan(t, n, reg.Ref("lab/a", "1")).Lazy() })
			if p := plan(t, n, reg.Ref("lab/b", "1")); !p.Lazy() {
				t.Errorf("not asked beside the API: %s: %s", p.Reason, p.Detail)
			}
		})
	}
}

func TestLegacyIsProbedOnceADay(t *testing.T) {
	t.Parallel()
	var clock atomic.Int64
	n := newNegotiator(t, negotiate.Options{
		Policy: legacy(negotiate.LegacyAuto), Now: func() time.Time { return time.Unix(clock.Load(), 0) },
	})
	reg := regtest.New(t, regtest.Options{})
	for _, step := range []struct {
		repo    string
		advance time.Duration
		probes  bool
	}{
		{"lab/a", 0, true},
		{"lab/a", time.Minute, false},
		{"lab/b", 0, false},
		{"other/a", 0, true},
		{"lab/c", 23 * time.Hour, false},
		{"lab/c", time.Hour, true},
	} {
		clock.Add(int64(step.advance / time.Second))
		putImage(t, reg, step.repo, "1", regtest.ImageSpec{})
		plan(t, n, reg.Ref(step.repo, "1"))
		if step.probes { // both endpoints, which say that they are not there
			eventually.True(t, "the endpoints were asked", func() bool { return legacyRequests(reg, step.repo) == 2 })
		}
	}
	n.Close()
	for repo, want := range map[string]int{"lab/a": 2, "lab/b": 0, "other/a": 2, "lab/c": 2} {
		if got := legacyRequests(reg, repo); got != want {
			t.Errorf("%d legacy requests for %s, want %d", got, repo, want)
		}
	}
}

func TestFailedProbeIsTriedAgain(t *testing.T) {
	t.Parallel()
	var clock atomic.Int64
	n := newNegotiator(t, negotiate.Options{
		Policy: legacy(negotiate.LegacyAuto), Now: func() time.Time { return time.Unix(clock.Load(), 0) },
	})
	reg := regtest.New(t, regtest.Options{Features: &regtest.Features{ORASv2: true, Referrers: true, ORASPush: true}})
	img := putImage(t, reg, "lab/a", "1", regtest.ImageSpec{})
	form{artifactType: typeDADI, layers: 2, orasPush: true}.attach(t, reg, "lab/a", img.Descriptor)
	remove := reg.Inject(regtest.Fault{Match: regtest.Path("oras"), Status: 503})
	plan(t, n, reg.Ref("lab/a", "1"))
	eventually.True(t, "the probe failed", func() bool { return legacyRequests(reg, "lab/a") == 1 })
	remove()
	eventually.True(t, "an hour is over and it succeeds", func() bool {
		clock.Add(1801) // a list of before must have been forgotten, too
		return plan(t, n, reg.Ref("lab/a", "1")).Lazy()
	})
}

func TestCloseEndsTheBackground(t *testing.T) {
	t.Parallel()
	reg := regtest.New(t, regtest.Options{})
	putImage(t, reg, "lab/a", "1", regtest.ImageSpec{})
	putImage(t, reg, "other/a", "1", regtest.ImageSpec{})
	n := newNegotiator(t, negotiate.Options{Policy: legacy(negotiate.LegacyAuto), DiscoveryTimeout: time.Hour})
	held := hang(reg, "oras")
	plan(t, n, reg.Ref("lab/a", "1"))
	<-held
	n.Close() // and not in an hour
	plan(t, n, reg.Ref("other/a", "1"))
	n.Close()
	if got := legacyRequests(reg, "other/a"); got != 0 {
		t.Errorf("%d probes after the end", got)
	}
}

package negotiate_test

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/internal/regtest"
	"github.com/referee-cri/referee/negotiate"
	"github.com/referee-cri/referee/negotiate/carry"
)

// attachCarried stores the form as a referrer of subject whose manifest is in its
// annotations, and returns what a list says of it.
func (f form) attachCarried(t testing.TB, reg *regtest.Registry, repo string, subject ocispec.Descriptor) ocispec.Descriptor {
	t.Helper()
	mediaType, loose := f.manifest(t, reg, &subject)
	content, err := json.Marshal(loose)
	if err != nil {
		t.Fatal(err)
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(content, &m); err != nil {
		t.Fatal(err)
	}
	if content, err = json.Marshal(m); err != nil {
		t.Fatal(err)
	}
	content, annotations, err := carry.Pack(content, m.Annotations)
	if err != nil {
		t.Fatal(err)
	}
	d, err := reg.PutManifest(repo, "", mediaType, content)
	if err != nil {
		t.Fatal(err)
	}
	d.ArtifactType, d.Annotations = f.artifactType, annotations
	return d
}

// TestCarriedManifests lists a form that carries its manifest in several ways, and
// looks whether the manifest is asked for all the same.
func TestCarriedManifests(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		tag    bool // the registry has no list of its own
		change func(annotations map[string]string)
		asked  bool
	}{
		"as it is":                  {},
		"not what it is":            {change: func(a map[string]string) { a[carry.Annotation] = a[carry.Annotation][1:] }, asked: true},
		"another annotation":        {change: func(a map[string]string) { a["added"] = "by the registry" }, asked: true},
		"long":                      {change: func(a map[string]string) { a["long"] = strings.Repeat("x", 8<<10) }, asked: true},
		"annotations left out":      {change: func(a map[string]string) { clear(a) }, asked: true},
		"under the fallback tag":    {tag: true, asked: true},
		"a lie in the fallback tag": {tag: true, change: func(a map[string]string) { a[carry.Annotation] = "" }, asked: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reg := regtest.New(t, regtest.Options{Features: &regtest.Features{Referrers: !tc.tag}})
			img := putImage(t, reg, "app", "1", regtest.ImageSpec{})
			d := form{artifactType: typeNative, layers: 2, created: "2026-01-02T03:04:05Z"}.attachCarried(t, reg, "app", img.Descriptor)
			listed := d
			listed.Annotations = maps.Clone(d.Annotations)
			if tc.change != nil {
				tc.change(listed.Annotations)
			}
			switch {
			case tc.tag:
				listUnder(t, reg, strings.Replace(img.Descriptor.Digest.String(), ":", "-", 1), listed)
			case tc.change != nil:
				body, err := json.Marshal(ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{listed}})
				if err != nil {
					t.Fatal(err)
				}
				fault := answer(http.StatusOK, ocispec.MediaTypeImageIndex, string(body))
				fault.Match = regtest.Path("/referrers/")
				reg.Inject(fault)
			}
			reg.ResetRequests()
			p := plan(t, newNegotiator(t, negotiate.Options{}), reg.Ref("app", "1"))
			if !p.Lazy() || p.Chosen.Artifact.Digest != d.Digest || p.Chosen.Artifact.Size != d.Size || p.Chosen.Created.IsZero() || len(p.Chosen.Layers) != 2 {
				t.Errorf("%s: %s: chosen %+v", p.Reason, p.Detail, p.Chosen)
			}
			asked := requests(reg)
			if got := slices.ContainsFunc(asked, func(line string) bool { return strings.HasSuffix(line, "/manifests/"+d.Digest.String()) }); got != tc.asked {
				t.Errorf("its manifest was asked for: %t, want %t: %q", got, tc.asked, asked)
			}
		})
	}
}

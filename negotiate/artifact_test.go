package negotiate_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/internal/regtest"
	"github.com/referee-cri/referee/negotiate"
)

// layersOf are the layers (or blobs) of a manifest under construction.
func layersOf(m map[string]any) []ocispec.Descriptor {
	layers, ok := m["layers"].([]ocispec.Descriptor)
	if !ok {
		panic("manifest has no layers")
	}
	return layers
}

func TestArtifactsAreVerified(t *testing.T) {
	t.Parallel()
	other := digest.FromString("other")
	for name, tc := range map[string]struct {
		form  form
		fault func(artifact ocispec.Descriptor) regtest.Fault
		want  reason.Code // None: it is taken
		fit   negotiate.Fit
	}{
		"one layer each":                {form: form{artifactType: typeNative, layers: 3}, fit: negotiate.FitLayers},
		"with acceleration layer":       {form: form{artifactType: typeNative, layers: 3, trace: true}, fit: negotiate.FitLayers},
		"base layer below":              {form: form{artifactType: typeNative, layers: 4, trace: true}, fit: negotiate.FitBased},
		"flat":                          {form: form{artifactType: typeNative, layers: 1}, fit: negotiate.FitFlat},
		"no artifact type, annotations": {form: form{artifactType: "", layers: 3}, fit: negotiate.FitLayers},
		"annotations absent": {form: form{artifactType: typeNative, layers: 3, change: func(m map[string]any) {
			for i := range layersOf(m) {
				layersOf(m)[i].Annotations = nil
			}
		}}, fit: negotiate.FitLayers},
		"no artifact type, no annotations": {form: form{artifactType: "", layers: 3, change: func(m map[string]any) {
			for i := range layersOf(m) {
				layersOf(m)[i].Annotations = nil
			}
		}}, want: reason.NoMatch},
		"too few layers":  {form: form{artifactType: typeNative, layers: 2}, want: reason.LayerMismatch},
		"too many layers": {form: form{artifactType: typeNative, layers: 5}, want: reason.LayerMismatch},
		"config that counts other layers": {form: form{artifactType: typeNative, layers: 4, change: func(m map[string]any) {
			m["layers"] = append(layersOf(m)[:1:1], layersOf(m)[:3]...)
			m["layers"] = layersOf(m)[:1]
		}}, want: reason.LayerMismatch},
		"no layers":              {form: form{artifactType: typeNative, layers: 0}, want: reason.ArtifactInvalid},
		"only acceleration":      {form: form{artifactType: typeNative, layers: 0, trace: true}, want: reason.ArtifactInvalid},
		"acceleration not last":  {form: form{artifactType: typeNative, layers: 3, change: func(m map[string]any) { layersOf(m)[0].Annotations[prefix+"acceleration-layer"] = "yes" }}, want: reason.ArtifactInvalid},
		"blob-digest differs":    {form: form{artifactType: typeNative, layers: 3, change: func(m map[string]any) { layersOf(m)[1].Annotations[prefix+"blob-digest"] = other.String() }}, want: reason.ArtifactInvalid},
		"blob-size differs":      {form: form{artifactType: typeNative, layers: 3, change: func(m map[string]any) { layersOf(m)[1].Annotations[prefix+"blob-size"] = "1" }}, want: reason.ArtifactInvalid},
		"blob-size is no number": {form: form{artifactType: typeNative, layers: 3, change: func(m map[string]any) { layersOf(m)[1].Annotations[prefix+"blob-size"] = "many" }}, want: reason.ArtifactInvalid},
		"turbo layer within":     {form: form{artifactType: typeNative, layers: 3, change: func(m map[string]any) { layersOf(m)[1].Annotations[prefix+"turbo-oci/target-digest"] = other.String() }}, want: reason.ArtifactInvalid},
		"compressed layer":       {form: form{artifactType: typeNative, layers: 3, change: func(m map[string]any) { layersOf(m)[1].MediaType += "+gzip" }}, want: reason.ArtifactInvalid},
		"negative size":          {form: form{artifactType: typeNative, layers: 3, change: func(m map[string]any) { layersOf(m)[1].Size = -1 }}, want: reason.ArtifactInvalid},
		"bad digest":             {form: form{artifactType: typeNative, layers: 3, change: func(m map[string]any) { layersOf(m)[1].Digest = "sha256:../../x" }}, want: reason.ArtifactInvalid},
		"two kinds at once":      {form: form{artifactType: typeNative, layers: 3, change: func(m map[string]any) { m["manifests"] = []int{} }}, want: reason.ArtifactInvalid},
		"says another type":      {form: form{artifactType: typeNative, layers: 3, change: func(m map[string]any) { m["mediaType"] = ocispec.MediaTypeImageIndex }}, want: reason.ArtifactInvalid},
		"no config":              {form: form{artifactType: typeNative, layers: 3, change: func(m map[string]any) { delete(m, "config") }}, want: reason.ArtifactInvalid},
		"TurboOCI of nothing":    {form: form{artifactType: typeTurbo, layers: 3}, want: reason.ArtifactInvalid},
		"unknown type":           {form: form{artifactType: "application/vnd.example.fast", layers: 3}, want: reason.NoMatch},
		"Azure": {form: form{artifactType: typeAzure, layers: 3, change: func(m map[string]any) {
			m["annotations"] = map[string]string{"streaming.format": "overlaybd", "streaming.version": "v1", "streaming.platform.os": "linux", "streaming.platform.arch": "amd64"}
		}}, fit: negotiate.FitLayers},
		"Azure, other format": {form: form{artifactType: typeAzure, layers: 3, change: func(m map[string]any) {
			m["annotations"] = map[string]string{"streaming.format": "erofs"}
		}}, want: reason.NoMatch},
		"Azure, no format": {form: form{artifactType: typeAzure, layers: 3}, want: reason.NoMatch},
		"Azure, other platform": {form: form{artifactType: typeAzure, layers: 3, change: func(m map[string]any) {
			m["annotations"] = map[string]string{"streaming.format": "overlaybd", "streaming.platform.os": "linux", "streaming.platform.arch": "arm64"}
		}}, want: reason.OtherPlatform},
		"other bytes": {form: form{artifactType: typeNative, layers: 3}, want: reason.DigestMismatch, fault: func(ocispec.Descriptor) regtest.Fault {
			return regtest.Fault{FlipAt: new(int64(5))}
		}},
		"longer": {form: form{artifactType: typeNative, layers: 3}, want: reason.SizeMismatch, fault: func(ocispec.Descriptor) regtest.Fault {
			return regtest.Fault{Rewrite: func(b []byte) []byte { return append(bytes.Clone(b), ' ') }}
		}},
		"cut short": {form: form{artifactType: typeNative, layers: 3}, want: reason.RegistryUnreachable, fault: func(ocispec.Descriptor) regtest.Fault {
			return regtest.Fault{CutAt: new(int64(50))}
		}},
		"gone":       {form: form{artifactType: typeNative, layers: 3}, want: reason.NotFound, fault: func(ocispec.Descriptor) regtest.Fault { return regtest.Fault{Status: 404} }},
		"forbidden":  {form: form{artifactType: typeNative, layers: 3}, want: reason.Unauthorized, fault: func(ocispec.Descriptor) regtest.Fault { return regtest.Fault{Status: 403} }},
		"over 4 MiB": {form: form{artifactType: typeNative, layers: 3}, want: reason.SizeMismatch, fault: func(ocispec.Descriptor) regtest.Fault { return regtest.Fault{Match: regtest.Path("/none")} }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reg := regtest.New(t, regtest.Options{})
			img := putImage(t, reg, "app", "1", regtest.ImageSpec{Layers: 3})
			d := tc.form.attach(t, reg, "app", img.Descriptor)
			if tc.fault != nil {
				fault := tc.fault(d)
				if fault.Match == nil {
					fault.Match = regtest.Path(d.Digest.String())
				}
				reg.Inject(fault)
			}
			if name == "over 4 MiB" { // the list says so
				reg.Inject(regtest.Fault{Match: regtest.Path("/referrers/"), Rewrite: func(b []byte) []byte {
					return bytes.Replace(b, fmt.Appendf(nil, `"size":%d`, d.Size), []byte(`"size":5000000`), 1)
				}})
			}
			p := plan(t, newNegotiator(t, negotiate.Options{}), reg.Ref("app", "1"))
			if p.Reason != tc.want {
				t.Fatalf("%s: %s, want %s", p.Reason, p.Detail, tc.want)
			}
			if tc.want == reason.None {
				if p.Chosen.Fit != tc.fit {
					t.Errorf("fit %s, want %s", p.Chosen.Fit, tc.fit)
				}
				return
			}
			if len(p.Rejected) != 1 || p.Rejected[0].Reason != tc.want || p.Rejected[0].Detail == "" || p.Rejected[0].Artifact.Digest != d.Digest {
				t.Errorf("rejected %+v", p.Rejected)
			}
		})
	}
}

// TestListsThatLie lists artifacts that are attached to something else, or to nothing.
func TestListsThatLie(t *testing.T) {
	t.Parallel()
	for name, subject := range map[string]func(reg *regtest.Registry) *ocispec.Descriptor{
		"another subject": func(reg *regtest.Registry) *ocispec.Descriptor {
			return &putImage(t, reg, "app", "2", regtest.ImageSpec{Seed: 2}).Descriptor
		},
		"no subject":    func(*regtest.Registry) *ocispec.Descriptor { return nil },
		"empty subject": func(*regtest.Registry) *ocispec.Descriptor { return &ocispec.Descriptor{} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reg := regtest.New(t, regtest.Options{Features: &regtest.Features{}})
			img := putImage(t, reg, "app", "1", regtest.ImageSpec{})
			mediaType, m := form{artifactType: typeNative, layers: 2}.manifest(t, reg, subject(reg))
			d, err := reg.PutJSON("app", "", mediaType, m)
			if err != nil {
				t.Fatal(err)
			}
			d.ArtifactType = typeNative
			listInTag(t, reg, img.Descriptor.Digest, d)
			p := plan(t, newNegotiator(t, negotiate.Options{}), reg.Ref("app", "1"))
			if p.Lazy() || p.Reason != reason.SubjectMismatch {
				t.Errorf("%s: %s", p.Reason, p.Detail)
			}
		})
	}
}

func TestManyReferrersCostFewRequests(t *testing.T) {
	t.Parallel()
	reg := regtest.New(t, regtest.Options{})
	img := putImage(t, reg, "app", "1", regtest.ImageSpec{})
	var newest ocispec.Descriptor
	for i := range 50 {
		f := form{artifactType: typeNative, layers: 2, created: fmt.Sprintf("2026-01-%02dT00:00:00Z", i%28+1), change: func(m map[string]any) { m["x"] = i }}
		if i%2 == 0 {
			f.artifactType = "application/vnd.dev.sigstore.bundle.v0.3+json"
		}
		d := f.attach(t, reg, "app", img.Descriptor)
		if i == 27 {
			newest = d
		}
	}
	p := plan(t, newNegotiator(t, negotiate.Options{}), reg.Ref("app", "1"))
	if !p.Lazy() || p.Chosen.Artifact.Digest != newest.Digest {
		t.Errorf("%s: %s, chosen %+v", p.Reason, p.Detail, p.Chosen)
	}
	if len(p.Rejected) != 49 {
		t.Errorf("%d rejected, want 49", len(p.Rejected))
	}
	codes := map[reason.Code]int{}
	for _, r := range p.Rejected {
		codes[r.Reason]++
	}
	if codes[reason.NoMatch] != 25 || codes[reason.LowerRanked] != 24 {
		t.Errorf("rejected for %v", codes)
	}
	if n, _ := reg.Count(nil); n > 3+8 {
		t.Errorf("%d requests", n)
	}
}

func TestRankingDoesNotDependOnTheList(t *testing.T) {
	t.Parallel()
	azure := func(m map[string]any) { m["annotations"] = map[string]string{"streaming.format": "overlaybd"} }
	for name, tc := range map[string]struct {
		forms []form
		want  int // which of them
	}{
		"native over Azure":          {[]form{{artifactType: typeAzure, layers: 2, change: azure}, {artifactType: typeNative, layers: 2}}, 1},
		"newer over older":           {[]form{{artifactType: typeNative, layers: 2, created: "2026-01-02T00:00:00Z"}, {artifactType: typeNative, layers: 2, created: "2026-01-01T00:00:00Z"}}, 0},
		"dated over undated":         {[]form{{artifactType: typeNative, layers: 2}, {artifactType: typeNative, layers: 2, created: "2020-01-01T00:00:00Z"}}, 1},
		"sound over newer":           {[]form{{artifactType: typeNative, layers: 2}, {artifactType: typeNative, layers: 7, created: "2026-01-01T00:00:00Z"}}, 0},
		"named over nameless, newer": {[]form{{artifactType: "", layers: 2, created: "2026-01-01T00:00:00Z"}, {artifactType: typeNative, layers: 2}}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, backwards := range []bool{false, true} {
				reg := regtest.New(t, regtest.Options{})
				img := putImage(t, reg, "app", "1", regtest.ImageSpec{})
				var want digest.Digest
				for i := range tc.forms {
					if backwards {
						i = len(tc.forms) - 1 - i
					}
					if d := tc.forms[i].attach(t, reg, "app", img.Descriptor); i == tc.want {
						want = d.Digest
					}
				}
				p := plan(t, newNegotiator(t, negotiate.Options{}), reg.Ref("app", "1"))
				if !p.Lazy() || p.Chosen.Artifact.Digest != want {
					t.Errorf("backwards %t: %s: %s, chosen %+v", backwards, p.Reason, p.Detail, p.Chosen)
				}
			}
		})
	}
}

func TestEqualsAreDecidedByDigest(t *testing.T) {
	t.Parallel()
	var chosen []digest.Digest
	for _, order := range [][]string{{"a", "b", "c"}, {"c", "b", "a"}} {
		reg := regtest.New(t, regtest.Options{})
		img := putImage(t, reg, "app", "1", regtest.ImageSpec{})
		for _, seed := range order {
			form{artifactType: typeNative, layers: 2, seed: seed}.attach(t, reg, "app", img.Descriptor)
		}
		p := plan(t, newNegotiator(t, negotiate.Options{}), reg.Ref("app", "1"))
		if !p.Lazy() || len(p.Rejected) != 2 || p.Rejected[0].Reason != reason.LowerRanked {
			t.Fatalf("%s: %s, rejected %+v", p.Reason, p.Detail, p.Rejected)
		}
		chosen = append(chosen, p.Chosen.Artifact.Digest)
	}
	if chosen[0] != chosen[1] {
		t.Errorf("the order of the list decided: %v", chosen)
	}
}

func TestOlderORASVariantHoldsAManifest(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]bool{"manifest is there": false, "manifest is not": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reg := regtest.New(t, regtest.Options{Features: &regtest.Features{ORASv2: true, ORASPush: true}})
			img := putImage(t, reg, "app", "1", regtest.ImageSpec{})
			mediaType, m := form{layers: 2, trace: true}.manifest(t, reg, nil)
			inner, err := reg.PutJSON("app", "", mediaType, m)
			if err != nil {
				t.Fatal(err)
			}
			d, err := reg.PutJSON("app", "", regtest.MediaTypeORASArtifact, map[string]any{
				"mediaType": regtest.MediaTypeORASArtifact, "artifactType": typeDADI,
				"subject": img.Descriptor, "blobs": []ocispec.Descriptor{inner},
			})
			if err != nil {
				t.Fatal(err)
			}
			if lose {
				reg.Inject(regtest.Fault{Match: regtest.Path(inner.Digest.String()), Status: 404})
			}
			p := plan(t, newNegotiator(t, negotiate.Options{Policy: legacy(negotiate.LegacyOn)}), reg.Ref("app", "1"))
			switch {
			case lose && p.Reason != reason.NotFound:
				t.Errorf("%s: %s", p.Reason, p.Detail)
			case !lose && (!p.Lazy() || p.Chosen.Artifact.Digest != d.Digest || len(p.Chosen.Layers) != 2 || len(p.Chosen.Tables) != 1):
				t.Errorf("%s: %s, chosen %+v", p.Reason, p.Detail, p.Chosen)
			}
		})
	}
}

func TestArtifactsOfAnIndex(t *testing.T) {
	t.Parallel()
	arm := &ocispec.Platform{OS: "linux", Architecture: "arm64"}
	type scene struct {
		reg         *regtest.Registry
		index       ocispec.Descriptor
		img, armImg *regtest.Image
	}
	attachIndex := func(t *testing.T, s scene, entries ...ocispec.Descriptor) {
		t.Helper()
		_, err := s.reg.PutJSON("app", "", ocispec.MediaTypeImageIndex, map[string]any{
			"schemaVersion": 2, "mediaType": ocispec.MediaTypeImageIndex, "artifactType": typeNative,
			"subject": s.index, "manifests": entries,
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	converted := func(t *testing.T, s scene, subject *ocispec.Descriptor, platform *ocispec.Platform) ocispec.Descriptor {
		t.Helper()
		mediaType, m := form{artifactType: typeNative, layers: 2}.manifest(t, s.reg, subject)
		d, err := s.reg.PutJSON("app", "", mediaType, m)
		if err != nil {
			t.Fatal(err)
		}
		d.Platform = platform
		return d
	}
	for name, tc := range map[string]struct {
		setup func(t *testing.T, s scene)
		code  reason.Code
	}{
		"a converted index":           {func(t *testing.T, s scene) { attachIndex(t, s, converted(t, s, nil, arm), converted(t, s, nil, amd64)) }, ""},
		"its entry names no platform": {func(t *testing.T, s scene) { attachIndex(t, s, converted(t, s, nil, nil)) }, ""},
		"only for others":             {func(t *testing.T, s scene) { attachIndex(t, s, converted(t, s, nil, arm)) }, reason.OtherPlatform},
		"its manifest is of another image": {func(t *testing.T, s scene) {
			attachIndex(t, s, converted(t, s, &s.armImg.Descriptor, amd64))
		}, reason.SubjectMismatch},
		"a single manifest": {func(t *testing.T, s scene) {
			form{artifactType: typeNative, layers: 2}.attach(t, s.reg, "app", s.index)
		}, ""},
		"a single manifest of others": {func(t *testing.T, s scene) { attachForeign(t, s.reg, s.index, arm) }, reason.OtherPlatform},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := scene{reg: regtest.New(t, regtest.Options{})}
			s.img = putImage(t, s.reg, "app", "", regtest.ImageSpec{})
			s.armImg = putImage(t, s.reg, "app", "", regtest.ImageSpec{Platform: arm})
			var err error
			if s.index, err = s.reg.PutIndex("app", "1", s.armImg, s.img); err != nil {
				t.Fatal(err)
			}
			tc.setup(t, s)
			p := plan(t, newNegotiator(t, negotiate.Options{}), s.reg.Ref("app", "1"))
			if p.Reason != tc.code {
				t.Fatalf("%s: %s, want %s: %+v", p.Reason, p.Detail, tc.code, p.Rejected)
			}
			if p.Lazy() && p.Chosen.Subject != s.index.Digest {
				t.Errorf("subject %s", p.Chosen.Subject)
			}
			if p.Image.Index == nil || p.Image.Index.Digest != s.index.Digest || p.Image.Documents[s.index.Digest] == nil {
				t.Errorf("index %+v", p.Image.Index)
			}
		})
	}
}

// attachForeign attaches to subject a manifest whose config names another platform.
func attachForeign(t *testing.T, reg *regtest.Registry, subject ocispec.Descriptor, platform *ocispec.Platform) {
	t.Helper()
	raw, err := json.Marshal(ocispec.Image{Platform: *platform, RootFS: ocispec.RootFS{Type: "layers"}})
	if err != nil {
		t.Fatal(err)
	}
	config, err := reg.PutBlob(ocispec.MediaTypeImageConfig, raw)
	if err != nil {
		t.Fatal(err)
	}
	form{artifactType: typeNative, layers: 2, change: func(m map[string]any) { m["config"] = config }}.attach(t, reg, "app", subject)
}

func TestManifestOfThePlatformIsAskedBeforeTheIndex(t *testing.T) {
	t.Parallel()
	reg := regtest.New(t, regtest.Options{})
	img := putImage(t, reg, "app", "", regtest.ImageSpec{})
	index, err := reg.PutIndex("app", "1", img)
	if err != nil {
		t.Fatal(err)
	}
	form{artifactType: typeNative, layers: 2, created: "2026-01-01T00:00:00Z"}.attach(t, reg, "app", index)
	want := form{artifactType: typeNative, layers: 2}.attach(t, reg, "app", img.Descriptor)
	p := plan(t, newNegotiator(t, negotiate.Options{}), reg.Ref("app", "1"))
	if !p.Lazy() || p.Chosen.Artifact.Digest != want.Digest {
		t.Errorf("%s: %s, chosen %+v", p.Reason, p.Detail, p.Chosen)
	}
	if n, _ := reg.Count(func(e regtest.Entry) bool { return strings.HasSuffix(e.Path, "/referrers/"+index.Digest.String()) }); n != 0 {
		t.Error("the index was asked about although its manifest has a form")
	}
}

func TestPlansSideBySideAgree(t *testing.T) {
	t.Parallel()
	reg := regtest.New(t, regtest.Options{Features: &regtest.Features{Referrers: true, ORASv1: true, ORASPush: true, PageSize: 2}})
	n := newNegotiator(t, negotiate.Options{Policy: legacy(negotiate.LegacyOn)})
	const images, plans = 4, 8
	want := map[string]digest.Digest{}
	for i := range images {
		repo := fmt.Sprintf("lab/app%d", i)
		img := putImage(t, reg, repo, "1", regtest.ImageSpec{Seed: int64(i)})
		for _, seed := range []string{"a", "b", "c"} {
			form{artifactType: typeNative, layers: 2, seed: seed}.attach(t, reg, repo, img.Descriptor)
		}
		form{artifactType: typeDADI, layers: 2, orasPush: true}.attach(t, reg, repo, img.Descriptor)
		want[repo] = plan(t, newNegotiator(t, negotiate.Options{}), reg.Ref(repo, "1")).Chosen.Artifact.Digest
	}
	var mu sync.Mutex
	got := map[string]map[digest.Digest]int{}
	var all sync.WaitGroup
	for i := range images * plans {
		all.Go(func() {
			repo := fmt.Sprintf("lab/app%d", i%images)
			ctx, cancel := context.WithCancel(t.Context())
			if i%5 == 4 {
				cancel() // must not disturb the others
			}
			defer cancel()
			p, err := n.Plan(ctx, negotiate.Request{Reference: reg.Ref(repo, "1"), Platform: amd64})
			if err != nil || !p.Lazy() {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if got[repo] == nil {
				got[repo] = map[digest.Digest]int{}
			}
			got[repo][p.Chosen.Artifact.Digest]++
		})
	}
	all.Wait()
	for repo, chosen := range got {
		if len(chosen) != 1 || chosen[want[repo]] == 0 {
			t.Errorf("%s: chosen %v, want %s", repo, chosen, want[repo])
		}
	}
	if diff := cmp.Diff(images, len(got)); diff != "" {
		t.Errorf("images planned (-want +got):\n%s", diff)
	}
}

func TestImagesThatCannotBeResolved(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		ref   string // below the registry's host; "!" in front: as it is
		fault *regtest.Fault
		want  reason.Code
	}{
		"bad reference":           {"!UPPER/x:y:z", nil, reason.BadRequest},
		"unknown tag":             {"app:2", nil, reason.NotFound},
		"unknown repository":      {"other:1", nil, reason.NotFound},
		"registry is down":        {"app:1", &regtest.Fault{Drop: true}, reason.RegistryUnreachable},
		"registry fails":          {"app:1", &regtest.Fault{Status: 500}, reason.RegistryError},
		"registry forbids":        {"app:1", &regtest.Fault{Status: 403}, reason.Unauthorized},
		"manifest is a web page":  {"app:1", &regtest.Fault{Status: 200, Header: http.Header{"Content-Type": {"text/html"}}, Body: []byte("<html>")}, reason.RegistryError},
		"manifest too large":      {"app:1", &regtest.Fault{Status: 200, Body: make([]byte, 4<<20+1)}, reason.RegistryError},
		"manifest altered":        {"app:1", &regtest.Fault{Match: regtest.Path("/manifests/"), FlipAt: new(int64(60))}, reason.DigestMismatch},
		"config altered":          {"app:1", &regtest.Fault{Match: regtest.Path("/blobs/"), FlipAt: new(int64(10))}, reason.DigestMismatch},
		"config longer":           {"app:1", &regtest.Fault{Match: regtest.Path("/blobs/"), Rewrite: func(b []byte) []byte { return append(bytes.Clone(b), ' ') }}, reason.SizeMismatch},
		"config cut":              {"app:1", &regtest.Fault{Match: regtest.Path("/blobs/"), CutAt: new(int64(10))}, reason.RegistryUnreachable},
		"config gone":             {"app:1", &regtest.Fault{Match: regtest.Path("/blobs/"), Status: 404}, reason.NotFound},
		"digest of other content": {"app@" + digest.FromString("x").String(), &regtest.Fault{Match: regtest.Path("/manifests/"), Status: 200, Header: http.Header{"Content-Type": {ocispec.MediaTypeImageManifest}}, Body: []byte(`{}`)}, reason.DigestMismatch},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reg := regtest.New(t, regtest.Options{})
			putImage(t, reg, "app", "1", regtest.ImageSpec{})
			if tc.fault != nil {
				reg.Inject(*tc.fault)
			}
			ref, verbatim := strings.CutPrefix(tc.ref, "!")
			if !verbatim {
				ref = reg.Host() + "/" + ref
			}
			p, err := newNegotiator(t, negotiate.Options{}).Plan(t.Context(), negotiate.Request{Reference: ref, Platform: amd64})
			if p != nil || reason.Of(err) != tc.want {
				t.Errorf("plan %v, error %v (%s), want %s", p, err, reason.Of(err), tc.want)
			}
		})
	}
}

package negotiate_test

import (
	"context"
	"errors"
	"math"
	"net/http"
	"slices"
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

// typeSwift is the artifact type of swift, a family of tests.
const typeSwift = "application/vnd.example.swift.v1"

// swift is a family of attached forms that no kernel parses.
type swift struct{}

func (swift) Format() string          { return "swift" }
func (swift) ArtifactTypes() []string { return []string{typeSwift} }
func (swift) LegacyTypes() []string   { return nil }
func (swift) Recognise(_ context.Context, a negotiate.Artifact) (*negotiate.Candidate, error) {
	if a.ArtifactType != typeSwift {
		return nil, negotiate.ErrNotMine
	}
	return &negotiate.Candidate{Format: "swift", Config: a.Config, Layers: a.Files}, nil
}

// inPlace is a family that finds itself in every image, or an error.
type inPlace struct {
	format string
	err    error
}

func (r inPlace) Format() string        { return r.format }
func (inPlace) ArtifactTypes() []string { return nil }
func (inPlace) LegacyTypes() []string   { return nil }
func (inPlace) Recognise(context.Context, negotiate.Artifact) (*negotiate.Candidate, error) {
	return nil, negotiate.ErrNotMine
}

func (r inPlace) RecogniseInPlace(o negotiate.Original) (*negotiate.Candidate, error) {
	if r.err != nil {
		return nil, r.err
	}
	return &negotiate.Candidate{Artifact: o.Manifest.Descriptor, Layers: o.Manifest.Files, Fit: negotiate.FitLayers}, nil
}

var _ negotiate.InPlaceRecogniser = inPlace{}

// families are overlaybd and others.
func families(others ...negotiate.Recogniser) []negotiate.Recogniser {
	return append(negotiate.Recognisers(), others...)
}

// asked counts the logged requests whose path contains part.
func asked(reg *regtest.Registry, part string) int {
	n, _ := reg.Count(func(e regtest.Entry) bool { return strings.Contains(e.Path, part) })
	return n
}

// codes are the reasons of the rejections by artifact.
func codes(p *negotiate.Plan) map[digest.Digest]reason.Code {
	found := map[digest.Digest]reason.Code{}
	for _, r := range p.Rejected {
		found[r.Artifact.Digest] = r.Reason
	}
	return found
}

func TestRulesThatAllowNothingAskNothing(t *testing.T) {
	t.Parallel()
	for name, multi := range map[string]bool{"single image": false, "index": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reg := regtest.New(t, regtest.Options{})
			img := putImage(t, reg, "app", "1", regtest.ImageSpec{})
			want := []string{"/v2/app/manifests/1", "/v2/app/blobs/" + img.Manifest.Config.Digest.String()}
			if multi {
				if _, err := reg.PutIndex("app", "1", img); err != nil {
					t.Fatal(err)
				}
				want = slices.Insert(want, 1, "/v2/app/manifests/"+img.Descriptor.Digest.String())
			}
			form{artifactType: typeNative, layers: 2}.attach(t, reg, "app", img.Descriptor)
			rules := negotiate.Rules{Name: "quiet", Formats: []string{}}
			p := plan(t, newNegotiator(t, negotiate.Options{
				Policy: negotiate.Uniform(rules), Recognisers: families(inPlace{format: "stands"}),
			}), reg.Ref("app", "1"))
			if p.Lazy() || p.Reason != reason.Disabled || !strings.Contains(p.Detail, "policy quiet") || len(p.Rejected) != 0 {
				t.Errorf("%s: %s, rejected %+v", p.Reason, p.Detail, p.Rejected)
			}
			if diff := cmp.Diff(want, requests(reg)); diff != "" {
				t.Errorf("requests (-want +got):\n%s", diff)
			}
			if len(p.Image.ChainIDs) != 2 {
				t.Errorf("chain IDs %v", p.Image.ChainIDs)
			}
		})
	}
}

// TestSizeOfTheImageDecides changes the sizes of the image's two layers.
func TestSizeOfTheImageDecides(t *testing.T) {
	t.Parallel()
	const ordinary = 1000
	for name, tc := range map[string]struct {
		sizes [2]int64
		least int64
		want  reason.Code
	}{
		"just large enough":         {[2]int64{ordinary, ordinary}, 2 * ordinary, reason.None},
		"one byte too small":        {[2]int64{ordinary, ordinary}, 2*ordinary + 1, reason.TooSmall},
		"no limit":                  {[2]int64{ordinary, ordinary}, 0, reason.None},
		"the largest that can be":   {[2]int64{math.MaxInt64, 0}, math.MaxInt64, reason.None},
		"more than can be counted":  {[2]int64{math.MaxInt64, 1}, 1, reason.RegistryError},
		"twice as many as there be": {[2]int64{math.MaxInt64, math.MaxInt64}, 1, reason.RegistryError},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reg := regtest.New(t, regtest.Options{})
			manifest := putImage(t, reg, "app", "", regtest.ImageSpec{}).Manifest
			for i, size := range tc.sizes {
				manifest.Layers[i].Size = size
			}
			d, err := reg.PutJSON("app", "1", ocispec.MediaTypeImageManifest, manifest)
			if err != nil {
				t.Fatal(err)
			}
			form{artifactType: typeNative, layers: 2}.attach(t, reg, "app", d)
			rules := negotiate.Rules{Name: "large", MinSize: tc.least}
			p := plan(t, newNegotiator(t, negotiate.Options{Policy: negotiate.Uniform(rules)}), reg.Ref("app", "1"))
			if p.Reason != tc.want || p.Lazy() != (tc.want == reason.None) {
				t.Errorf("%s: %s, want %q", p.Reason, p.Detail, tc.want)
			}
			if n := asked(reg, "/referrers/"); n != 0 && tc.want != reason.None {
				t.Errorf("referrers were asked for %d times", n)
			}
			if tc.want == reason.TooSmall && !strings.Contains(p.Detail, "policy large") {
				t.Errorf("detail %q", p.Detail)
			}
		})
	}
}

func TestOrderOfFormatsIsThePolicys(t *testing.T) {
	t.Parallel()
	const overlaybd, fast, stands, stands2 = "overlaybd", "swift", "stands", "stands-too"
	all := families(swift{}, inPlace{format: stands}, inPlace{format: stands2})
	for name, tc := range map[string]struct {
		recognisers []negotiate.Recogniser
		formats     []string
		attached    []string
		want        string
	}{
		"the recognisers', without a list":         {all, nil, []string{fast, overlaybd}, overlaybd},
		"the recognisers' the other way":           {[]negotiate.Recogniser{swift{}, all[0]}, nil, []string{fast, overlaybd}, fast},
		"the list's":                               {all, []string{fast, overlaybd}, []string{overlaybd, fast}, fast},
		"the list's, first one is not there":       {all, []string{fast, overlaybd}, []string{overlaybd}, overlaybd},
		"in place after attached ones":             {all, nil, []string{fast}, fast},
		"in place before attached ones":            {all, []string{stands, fast}, []string{fast}, stands},
		"in place, the recognisers' order":         {all, nil, nil, stands},
		"in place, the list's order":               {all, []string{stands2, stands}, nil, stands2},
		"in place before a newer one of the next":  {[]negotiate.Recogniser{inPlace{format: stands}, swift{}}, nil, []string{fast}, stands},
		"in place after the one before, not newer": {[]negotiate.Recogniser{swift{}, inPlace{format: stands}}, nil, []string{fast}, fast},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reg := regtest.New(t, regtest.Options{})
			img := putImage(t, reg, "app", "1", regtest.ImageSpec{})
			for _, format := range tc.attached {
				f := form{artifactType: typeNative, layers: 2, created: "2026-01-01T00:00:00Z"}
				if format == fast {
					f.artifactType = typeSwift
				}
				f.attach(t, reg, "app", img.Descriptor)
			}
			p := plan(t, newNegotiator(t, negotiate.Options{
				Recognisers: tc.recognisers, Policy: negotiate.Uniform(negotiate.Rules{Formats: tc.formats}),
			}), reg.Ref("app", "1"))
			if !p.Lazy() || p.Chosen.Format != tc.want {
				t.Fatalf("%s: %s, chosen %+v, want %s", p.Reason, p.Detail, p.Chosen, tc.want)
			}
			if bound := strings.HasPrefix(tc.want, stands); p.Chosen.Bound != bound || (p.Chosen.Found == negotiate.FoundInPlace) != bound {
				t.Errorf("chosen %+v", p.Chosen)
			}
		})
	}
}

// TestFormsRuledOutAreNotFetched looks at the request log.
func TestFormsRuledOutAreNotFetched(t *testing.T) {
	t.Parallel()
	noDriver := func(string) error { return errors.New("kernel has no EROFS") }
	for name, tc := range map[string]struct {
		opts   negotiate.Options
		want   reason.Code
		detail string
	}{
		"not listed": {
			negotiate.Options{Policy: negotiate.Uniform(negotiate.Rules{Name: "erofs-only", Formats: []string{"erofs"}})},
			reason.FormatNotAllowed, "policy erofs-only does not list overlaybd",
		},
		"not listed, rules without a name": {
			negotiate.Options{Policy: negotiate.Uniform(negotiate.Rules{Formats: []string{"erofs"}})},
			reason.FormatNotAllowed, "the policy does not list overlaybd",
		},
		"not attachable":                {negotiate.Options{Attachable: noDriver}, reason.NotAttachable, "kernel has no EROFS"},
		"not attachable, signed wanted": {negotiate.Options{Attachable: noDriver, Policy: negotiate.Uniform(negotiate.Rules{RequireSignature: true})}, reason.NotAttachable, "kernel has no EROFS"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reg := regtest.New(t, regtest.Options{})
			img := putImage(t, reg, "app", "1", regtest.ImageSpec{})
			d := form{artifactType: typeNative, layers: 2}.attach(t, reg, "app", img.Descriptor)
			p := plan(t, newNegotiator(t, tc.opts), reg.Ref("app", "1"))
			if p.Lazy() || p.Reason != tc.want || !strings.Contains(p.Detail, tc.detail) {
				t.Errorf("%s: %s", p.Reason, p.Detail)
			}
			if len(p.Rejected) != 1 || p.Rejected[0].Format != "overlaybd" || p.Rejected[0].Artifact.Digest != d.Digest || p.Rejected[0].Reason != tc.want {
				t.Errorf("rejected %+v", p.Rejected)
			}
			if n := asked(reg, d.Digest.String()); n != 0 {
				t.Errorf("%d requests about the artifact: %q", n, requests(reg))
			}
		})
	}
}

// TestFormsInPlaceAreJudgedAsOthers: what the policy rules out is not called
// broken, even if it is.
func TestFormsInPlaceAreJudgedAsOthers(t *testing.T) {
	t.Parallel()
	broken := reason.Errorf(reason.ArtifactInvalid, "its table of contents is missing")
	for name, tc := range map[string]struct {
		recogniser inPlace
		rules      negotiate.Rules
		want       reason.Code
	}{
		"sound":                  {inPlace{"stands", nil}, negotiate.Rules{}, reason.None},
		"not there":              {inPlace{"stands", negotiate.ErrNotMine}, negotiate.Rules{}, reason.NoReferrers},
		"broken":                 {inPlace{"stands", broken}, negotiate.Rules{}, reason.ArtifactInvalid},
		"not listed":             {inPlace{"stands", nil}, negotiate.Rules{Formats: []string{"overlaybd"}}, reason.FormatNotAllowed},
		"not listed, and broken": {inPlace{"stands", broken}, negotiate.Rules{Formats: []string{"overlaybd"}}, reason.FormatNotAllowed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reg := regtest.New(t, regtest.Options{})
			img := putImage(t, reg, "app", "1", regtest.ImageSpec{})
			p := plan(t, newNegotiator(t, negotiate.Options{
				Recognisers: families(tc.recogniser), Policy: negotiate.Uniform(tc.rules),
			}), reg.Ref("app", "1"))
			if p.Reason != tc.want || p.Lazy() != (tc.want == reason.None) {
				t.Errorf("%s: %s, want %q", p.Reason, p.Detail, tc.want)
			}
			for _, r := range p.Rejected {
				if r.Format != "stands" || r.Found != negotiate.FoundInPlace || r.Artifact.Digest != img.Descriptor.Digest {
					t.Errorf("rejected %+v", r)
				}
			}
			if p.Lazy() && (!p.Chosen.Bound || p.Chosen.Subject != img.Descriptor.Digest || !slices.Equal(p.Vouched, []digest.Digest{img.Descriptor.Digest})) {
				t.Errorf("chosen %+v, vouched %v", p.Chosen, p.Vouched)
			}
		})
	}
}

// TestForeignFileSystems offers overlaybd, whose file system the kernel parses,
// and swift, where there is none to parse.
func TestForeignFileSystems(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	for name, tc := range map[string]struct {
		mode         negotiate.ForeignMode
		signed, also bool // overlaybd is signed, swift is attached as well
		want         string
		code         reason.Code // of overlaybd's rejection, or the plan's
	}{
		"allowed":                       {negotiate.ForeignAllow, false, false, "overlaybd", ""},
		"signed only, and it is":        {negotiate.ForeignSignedOnly, true, false, "overlaybd", ""},
		"signed only, and it is not":    {negotiate.ForeignSignedOnly, false, false, "", reason.Unsigned},
		"signed only, another need not": {negotiate.ForeignSignedOnly, false, true, "swift", reason.Unsigned},
		"denied":                        {negotiate.ForeignDeny, true, false, "", reason.ForeignFilesystem},
		"denied, another is not":        {negotiate.ForeignDeny, true, true, "swift", reason.ForeignFilesystem},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reg := regtest.New(t, regtest.Options{})
			img := putImage(t, reg, "app", "1", regtest.ImageSpec{})
			d := form{artifactType: typeNative, layers: 2}.attach(t, reg, "app", img.Descriptor)
			if tc.also {
				form{artifactType: typeSwift, layers: 2}.attach(t, reg, "app", img.Descriptor)
			}
			if tc.signed {
				key.attach(t, reg, "app", negotiate.SignatureNotation, d)
			}
			rules := negotiate.Rules{Name: "kernel", ForeignFilesystems: tc.mode, Verifiers: []negotiate.Verifier{key.store("prod")}}
			p := plan(t, newNegotiator(t, negotiate.Options{Recognisers: families(swift{}), Policy: negotiate.Uniform(rules)}), reg.Ref("app", "1"))
			var chosen string
			if p.Lazy() {
				chosen = p.Chosen.Format
			}
			if chosen != tc.want || codes(p)[d.Digest] != tc.code {
				t.Fatalf("chosen %q, rejected %+v", chosen, p.Rejected)
			}
			if tc.want == "" && (p.Reason != tc.code || !strings.Contains(p.Detail, "policy kernel")) {
				t.Errorf("%s: %s", p.Reason, p.Detail)
			}
			if p.Lazy() && p.Chosen.Format == "overlaybd" && (p.Chosen.Signer != nil) != tc.signed {
				t.Errorf("signer %+v", p.Chosen.Signer)
			}
		})
	}
}

func TestImageThatIsDeniedHasNoForm(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		attached bool
		rules    negotiate.Rules
	}{
		"with a form":       {attached: true},
		"without one":       {},
		"without any asked": {attached: true, rules: negotiate.Rules{Formats: []string{}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reg := regtest.New(t, regtest.Options{})
			img := putImage(t, reg, "app", "", regtest.ImageSpec{})
			index, err := reg.PutIndex("app", "1", img)
			if err != nil {
				t.Fatal(err)
			}
			var d ocispec.Descriptor
			if tc.attached {
				d = form{artifactType: typeNative, layers: 2}.attach(t, reg, "app", img.Descriptor)
			}
			var reference string
			var top ocispec.Descriptor
			p := plan(t, newNegotiator(t, negotiate.Options{
				Policy: negotiate.Uniform(tc.rules),
				VerifyImage: func(_ context.Context, ref string, desc ocispec.Descriptor) error {
					reference, top = ref, desc
					return errors.New("the cluster's policy forbids it")
				},
			}), reg.Ref("app", "1"))
			if p.Lazy() || p.Reason != reason.ImageDenied || !strings.Contains(p.Detail, "forbids") || len(p.Vouched) != 0 {
				t.Errorf("%s: %s, vouched %v", p.Reason, p.Detail, p.Vouched)
			}
			if reference != reg.Ref("app", "1") || top.Digest != index.Digest || top.Size != index.Size || top.MediaType != index.MediaType {
				t.Errorf("asked about %s, %+v", reference, top)
			}
			if want := tc.attached && tc.rules.Formats == nil; want != (codes(p)[d.Digest] == reason.ImageDenied) {
				t.Errorf("rejected %+v", p.Rejected)
			}
			if got := asked(reg, "/blobs/"); got != 1 { // the config
				t.Errorf("%d blobs were read: %q", got, requests(reg))
			}
			if len(p.Image.ChainIDs) != 2 {
				t.Errorf("chain IDs %v", p.Image.ChainIDs)
			}
		})
	}
}

// TestImagesAreVerifiedBesideDiscovery holds the list of referrers back until the
// verifier is at work, and the verifier until the list has been asked for.
func TestImagesAreVerifiedBesideDiscovery(t *testing.T) {
	t.Parallel()
	reg := regtest.New(t, regtest.Options{})
	img := putImage(t, reg, "app", "1", regtest.ImageSpec{})
	form{artifactType: typeNative, layers: 2}.attach(t, reg, "app", img.Descriptor)
	listed, verifying := make(chan struct{}), make(chan struct{})
	var remove func()
	var once sync.Once
	match := regtest.Path("/referrers/")
	remove = reg.Inject(regtest.Fault{Skip: math.MaxInt, Match: func(req *http.Request) bool {
		if match(req) {
			once.Do(func() { close(listed) })
		}
		return false
	}})
	defer remove()
	defer reg.Inject(regtest.Fault{Match: match, Rewrite: func(body []byte) []byte {
		<-verifying
		return body
	}})()
	p := plan(t, newNegotiator(t, negotiate.Options{VerifyImage: func(ctx context.Context, _ string, _ ocispec.Descriptor) error {
		select {
		case <-listed:
			close(verifying)
			return nil
		case <-ctx.Done():
			close(verifying)
			return ctx.Err()
		}
	}}), reg.Ref("app", "1"))
	if !p.Lazy() {
		t.Errorf("%s: %s", p.Reason, p.Detail)
	}
}

// TestVouchedForms lists what the repository attaches and the policy lets pass.
func TestVouchedForms(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	for name, tc := range map[string]struct {
		rules  negotiate.Rules
		signed []string
		want   []string
	}{
		"unsigned ones":       {negotiate.Rules{}, nil, []string{"newest", "older"}},
		"only signed ones":    {negotiate.Rules{RequireSignature: true}, []string{"older"}, []string{"older"}},
		"nobody signed":       {negotiate.Rules{RequireSignature: true}, nil, nil},
		"format not allowed":  {negotiate.Rules{Formats: []string{"swift"}}, nil, nil},
		"nothing is allowed":  {negotiate.Rules{Formats: []string{}}, nil, nil},
		"foreign, not signed": {negotiate.Rules{ForeignFilesystems: negotiate.ForeignSignedOnly}, []string{"newest"}, []string{"newest"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reg := regtest.New(t, regtest.Options{})
			img := putImage(t, reg, "app", "1", regtest.ImageSpec{})
			names := map[digest.Digest]string{}
			for name, f := range map[string]form{
				"newest":         {artifactType: typeNative, layers: 2, created: "2026-01-02T00:00:00Z"},
				"older":          {artifactType: typeNative, layers: 2, created: "2026-01-01T00:00:00Z"},
				"broken, newest": {artifactType: typeNative, layers: 7, created: "2026-01-03T00:00:00Z"},
			} {
				d := f.attach(t, reg, "app", img.Descriptor)
				names[d.Digest] = name
				if slices.Contains(tc.signed, name) {
					key.attach(t, reg, "app", negotiate.SignatureBundle, d)
				}
			}
			tc.rules.Verifiers = []negotiate.Verifier{key.store("prod")}
			p := plan(t, newNegotiator(t, negotiate.Options{Policy: negotiate.Uniform(tc.rules)}), reg.Ref("app", "1"))
			var got []string
			for _, d := range p.Vouched {
				got = append(got, names[d])
			}
			slices.Sort(got)
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("vouched (-want +got):\n%s", diff)
			}
			if p.Lazy() && !slices.Contains(p.Vouched, p.Chosen.Artifact.Digest) {
				t.Errorf("the chosen form %s is not vouched for", names[p.Chosen.Artifact.Digest])
			}
		})
	}
}

// TestRulesOfEachRepository asks the policy for the repository's full name.
func TestRulesOfEachRepository(t *testing.T) {
	t.Parallel()
	reg := regtest.New(t, regtest.Options{})
	for _, repo := range []string{"team/app", "other"} {
		img := putImage(t, reg, repo, "1", regtest.ImageSpec{})
		form{artifactType: typeNative, layers: 2}.attach(t, reg, repo, img.Descriptor)
	}
	strict, lax := &negotiate.Rules{Name: "strict", Formats: []string{}}, &negotiate.Rules{Name: "lax"}
	n := newNegotiator(t, negotiate.Options{Policy: negotiate.PolicyFunc(func(repository string) *negotiate.Rules {
		if repository == reg.Host()+"/team/app" {
			return strict
		}
		return lax
	})})
	for repo, want := range map[string]*negotiate.Rules{"team/app": strict, "other": lax} {
		p := plan(t, n, reg.Ref(repo, "1"))
		if p.Rules != want || p.Lazy() != (want == lax) {
			t.Errorf("%s: rules %+v, %s: %s", repo, p.Rules, p.Reason, p.Detail)
		}
	}
}

package negotiate_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/internal/regtest"
	"github.com/referee-cri/referee/internal/testdata"
	"github.com/referee-cri/referee/negotiate"
)

func read(t *testing.T, elements ...string) []byte {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(elements...))
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func digests(descriptors []ocispec.Descriptor) []string {
	var list []string
	for _, d := range descriptors {
		list = append(list, d.Digest.Encoded()[:8])
	}
	return list
}

// TestRedisExample plays the published example: the image's manifest and its
// DADI form as they were printed. Only digests change that cannot stay: the
// printed manifest is a re-indented copy, and its configs were not printed.
func TestRedisExample(t *testing.T) {
	t.Parallel()
	dir := testdata.Dir(t, "redis-example")
	image, artifact := read(t, dir, "image.json"), read(t, dir, "artifact.json")

	m, err := negotiate.DecodeManifest("", artifact)
	if err != nil {
		t.Fatal(err)
	}
	if m.ArtifactType != typeDADI || len(m.Files) != 9 || m.Subject == nil ||
		m.Subject.Digest != "sha256:820582b05253c2b968442b8af31d791ae64478bcc18e04826c5ce42f974d3272" || m.Subject.Size != 16724 {
		t.Fatalf("decoded %+v", m)
	}

	for name, tc := range map[string]struct {
		features regtest.Features
		found    negotiate.Discovery
		request  string // %s: the subject
	}{
		"as its README asks": {regtest.Features{ORASv1: true}, negotiate.FoundORASv1, "/oras/artifacts/v1/redis/manifests/%s/referrers?artifactType=dadi.image.v1"},
		"a year later":       {regtest.Features{ORASv2: true}, negotiate.FoundORASv2, "/v2/redis/_oras/artifacts/referrers?artifactType=dadi.image.v1&digest=%s"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tc.features.ORASPush = true
			reg := regtest.New(t, regtest.Options{Features: &tc.features})
			manifest := withConfig(t, reg, image, 6)
			subject, err := reg.PutManifest("redis", "latest", "application/vnd.docker.distribution.manifest.v2+json", manifest)
			if err != nil {
				t.Fatal(err)
			}
			attached := bytes.Replace(withConfig(t, reg, artifact, 7), []byte(m.Subject.Digest), []byte(subject.Digest), 1)
			if _, err := reg.PutManifest("redis", "", regtest.MediaTypeORASArtifact, attached); err != nil {
				t.Fatal(err)
			}
			p := plan(t, newNegotiator(t, negotiate.Options{Policy: legacy(negotiate.LegacyOn)}), reg.Ref("redis", "latest"))
			if !p.Lazy() {
				t.Fatalf("%s: %s", p.Reason, p.Detail)
			}
			c := p.Chosen
			if want := []string{"a8b5fca8", "87763bef", "5bf55fa8", "62a99921", "f2d33f59", "8d77203e", "8bdb50d0"}; !cmp.Equal(want, digests(c.Layers)) {
				t.Errorf("layers %v, want %v", digests(c.Layers), want)
			}
			if c.Prefetch == nil || c.Prefetch.Digest.Encoded()[:8] != "c32be80b" || c.Prefetch.Size != 11264 {
				t.Errorf("acceleration layer %+v", c.Prefetch)
			}
			// Seven layers for six: the ready-made file system lies below.
			if c.Fit != negotiate.FitBased || c.Found != tc.found || len(p.Image.ChainIDs) != 6 {
				t.Errorf("fit %s, found by %s, %d chain IDs", c.Fit, c.Found, len(p.Image.ChainIDs))
			}
			asked := strings.Join(requests(reg), "\n")
			for _, want := range []string{"/v2/redis/manifests/latest", fmt.Sprintf(tc.request, strings.ReplaceAll(subject.Digest.String(), ":", colon(tc.request)))} {
				if !strings.Contains(asked, want) {
					t.Errorf("not asked: %s; but:\n%s", want, asked)
				}
			}
		})
	}
}

// colon is how a colon is written where the digest stands: raw in a path, escaped in a query.
func colon(request string) string {
	if strings.HasSuffix(request, "digest=%s") {
		return "%3A"
	}
	return ":"
}

// withConfig puts a config with so many diff IDs into the place of the first
// config descriptor of a document, and changes nothing else of it.
func withConfig(t *testing.T, reg *regtest.Registry, doc []byte, diffIDs int) []byte {
	t.Helper()
	m, err := negotiate.DecodeManifest("", doc)
	if err != nil {
		t.Fatal(err)
	}
	old := m.Config
	if old == nil {
		old = &m.Files[0]
	}
	config := ocispec.Image{Platform: *amd64, RootFS: ocispec.RootFS{Type: "layers"}}
	for i := range diffIDs {
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digest.FromString(fmt.Sprint(i)))
	}
	raw, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	d, err := reg.PutBlob(old.MediaType, raw)
	if err != nil {
		t.Fatal(err)
	}
	doc = bytes.Replace(doc, []byte(old.Digest), []byte(d.Digest), 1)
	return bytes.Replace(doc, fmt.Appendf(nil, `"size": %d`, old.Size), fmt.Appendf(nil, `"size": %d`, d.Size), 1)
}

// TestRealConvertedImages attaches manifests of published converted images to a
// stand-in for their source.
func TestRealConvertedImages(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(testdata.Dir(t, "overlaybd"), "real", "uconv")
	images, err := os.ReadDir(dir)
	if err != nil || len(images) != 5 {
		t.Fatalf("%d images: %v", len(images), err)
	}
	for _, image := range images {
		for file, want := range map[string]reason.Code{
			"": reason.None, "-turbo": reason.NoMatch, "-turbo-erofs": reason.NoMatch,
		} {
			t.Run(image.Name()+file, func(t *testing.T) {
				t.Parallel()
				reg := regtest.New(t, regtest.Options{})
				config := read(t, dir, image.Name(), "config"+file+".json")
				converted := read(t, dir, image.Name(), "manifest"+file+".json")
				m, err := negotiate.DecodeManifest("", converted)
				if err != nil {
					t.Fatal(err)
				}
				if m.Config.Digest != digest.FromBytes(config) {
					t.Fatalf("config is %s, the manifest says %s", digest.FromBytes(config), m.Config.Digest)
				}
				if _, err := reg.PutBlob(m.Config.MediaType, config); err != nil {
					t.Fatal(err)
				}
				source := putImage(t, reg, "app", "1", regtest.ImageSpec{Layers: len(m.Files)})
				subject, err := json.Marshal(source.Descriptor)
				if err != nil {
					t.Fatal(err)
				}
				attached := append(bytes.TrimSuffix(converted, []byte("}")), fmt.Appendf(nil, `,"subject":%s}`, subject)...)
				if _, err := reg.PutManifest("app", "", m.Descriptor.MediaType, attached); err != nil {
					t.Fatal(err)
				}
				p := plan(t, newNegotiator(t, negotiate.Options{}), reg.Ref("app", "1"))
				if p.Reason != want {
					t.Fatalf("%s: %s", p.Reason, p.Detail)
				}
				if want == reason.None && !cmp.Equal(digests(p.Chosen.Layers), digests(m.Files)) {
					t.Errorf("layers %v", digests(p.Chosen.Layers))
				}
			})
		}
	}
}

// TestReferenceImage serves an image with every referrer that other projects' tools attached.
func TestReferenceImage(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(testdata.Dir(t, "reference"), "tiny")
	for name, features := range map[string]regtest.Features{
		"referrers API": regtest.DefaultFeatures(),
		"in pages":      {Referrers: true, PageSize: 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reg := regtest.New(t, regtest.Options{Features: &features})
			if _, err := reg.LoadLayout("lab/tiny", dir); err != nil {
				t.Fatal(err)
			}
			p := plan(t, newNegotiator(t, negotiate.Options{}), reg.Ref("lab/tiny", "tiny"))
			if !p.Lazy() {
				t.Fatalf("%s: %s", p.Reason, p.Detail)
			}
			// Two native forms without a date: the lower digest.
			if got := p.Chosen.Artifact.Digest.Encoded()[:8]; got != "7b817d6f" || len(p.Chosen.Layers) != 4 || p.Chosen.Fit != negotiate.FitLayers {
				t.Errorf("chosen %s with %d layers, %s", got, len(p.Chosen.Layers), p.Chosen.Fit)
			}
			rejected := map[string]reason.Code{}
			for _, r := range p.Rejected {
				rejected[r.Artifact.Digest.Encoded()[:8]] = r.Reason
			}
			want := map[string]reason.Code{
				"bab420ba": reason.LowerRanked, // the other native one
				"1f49534b": reason.NoMatch,     // TurboOCI, ext4
				"b561b8a2": reason.NoMatch,     // TurboOCI, EROFS
				"f42a0254": reason.NoMatch,     // SOCI index v1
				"4d8307ba": reason.NoMatch,     // Sigstore bundle
			}
			if diff := cmp.Diff(want, rejected); diff != "" {
				t.Errorf("rejected (-want +got):\n%s", diff)
			}
			for _, r := range p.Rejected {
				if r.Reason == reason.NoMatch && !strings.HasPrefix(r.Detail, "this is a") {
					t.Errorf("%s is not named: %s", r.ArtifactType, r.Detail)
				}
			}
		})
	}
}

// TestRealIndexes resolves each platform of images whose indexes nobody here wrote.
func TestRealIndexes(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(testdata.Dir(t, "overlaybd"), "real", "layouts", "hello-world-e2e")
	reg := regtest.New(t, regtest.Options{})
	if _, err := reg.LoadLayout("hello", dir); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		tag      string
		platform ocispec.Platform
		want     string
		code     reason.Code
	}{
		"amd64 of a list":      {"multi-arch", *amd64, "7e9b6e7b", ""},
		"arm64 of a list":      {"multi-arch", ocispec.Platform{OS: "linux", Architecture: "arm64", Variant: "v8"}, "efebf0f7", ""},
		"arm64, no variant":    {"multi-arch", ocispec.Platform{OS: "linux", Architecture: "arm64"}, "efebf0f7", ""},
		"the best arm variant": {"multi-arch", ocispec.Platform{OS: "linux", Architecture: "arm", Variant: "v7"}, "a0a38631", ""},
		"a lower arm variant":  {"multi-arch", ocispec.Platform{OS: "linux", Architecture: "arm", Variant: "v6"}, "084c3bdd", ""},
		"none":                 {"multi-arch", ocispec.Platform{OS: "plan9", Architecture: "amd64"}, "", reason.OtherPlatform},
		"arm64 of a nest":      {"nested-index", ocispec.Platform{OS: "linux", Architecture: "arm64"}, "efebf0f7", ""},
		// The nest without a platform comes after the 386 image, which runs here: so containerd chooses.
		"amd64 beside a nest": {"nested-index", *amd64, "004d23c6", ""},
		"a single manifest":   {"amd64", *amd64, "7e9b6e7b", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, err := newNegotiator(t, negotiate.Options{}).Plan(t.Context(), negotiate.Request{Reference: reg.Ref("hello", tc.tag), Platform: &tc.platform})
			if reason.Of(err) != tc.code {
				t.Fatalf("got %v, want %s", err, tc.code)
			}
			if err != nil {
				return
			}
			if got := p.Image.Manifest.Digest.Encoded()[:8]; got != tc.want {
				t.Errorf("manifest %s, want %s", got, tc.want)
			}
			if (p.Image.Index == nil) != (tc.tag == "amd64") || len(p.Image.ChainIDs) != len(p.Image.Layers) {
				t.Errorf("image %+v", p.Image)
			}
		})
	}
}

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
		for file, want := range map[string]string{
			"": "overlaybd", "-turbo": "turbooci", "-turbo-erofs": "turbooci",
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
				if want == "turbooci" {
					source = putTargets(t, reg, source, m.Files)
				}
				subject, err := json.Marshal(source.Descriptor)
				if err != nil {
					t.Fatal(err)
				}
				attached := append(bytes.TrimSuffix(converted, []byte("}")), fmt.Appendf(nil, `,"subject":%s}`, subject)...)
				if _, err := reg.PutManifest("app", "", m.Descriptor.MediaType, attached); err != nil {
					t.Fatal(err)
				}
				p := plan(t, newNegotiator(t, negotiate.Options{}), reg.Ref("app", "1"))
				if !p.Lazy() || p.Chosen.Format != want || !p.Chosen.Foreign {
					t.Fatalf("%s: %s, chosen %+v", p.Reason, p.Detail, p.Chosen)
				}
				own, layers := p.Chosen.Layers, digests(m.Files)
				if want == "turbooci" { // its own are tables of the image's
					own = p.Chosen.Tables
					if !cmp.Equal(digests(p.Chosen.Layers), digests(source.Manifest.Layers)) {
						t.Errorf("layers %v", digests(p.Chosen.Layers))
					}
				}
				if !cmp.Equal(digests(own), layers) {
					t.Errorf("layers of its own %v, want %v", digests(own), layers)
				}
			})
		}
	}
}

// putTargets stores source again, its layers being those that TurboOCI layers are of.
func putTargets(t *testing.T, reg *regtest.Registry, source *regtest.Image, turbo []ocispec.Descriptor) *regtest.Image {
	t.Helper()
	for i, d := range turbo {
		source.Manifest.Layers[i].Digest = digest.Digest(d.Annotations[prefix+"turbo-oci/target-digest"])
	}
	d, err := reg.PutJSON("app", "1", ocispec.MediaTypeImageManifest, source.Manifest)
	if err != nil {
		t.Fatal(err)
	}
	source.Descriptor = d
	return source
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
				"1f49534b": reason.LowerRanked, // TurboOCI, ext4
				"b561b8a2": reason.LowerRanked, // TurboOCI, EROFS
				"f42a0254": reason.LowerRanked, // SOCI index v1
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

package negotiate_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/internal/regtest"
	"github.com/referee-cri/referee/internal/testdata"
	"github.com/referee-cri/referee/negotiate"
)

// TestSOCIIndexIsCompleted goes through what the manifest of an index of the second
// version may say of an image of two layers.
func TestSOCIIndexIsCompleted(t *testing.T) {
	t.Parallel()
	stranger := ocispec.Descriptor{Digest: digest.FromString("no layer of this image")}
	for name, tc := range map[string]struct {
		layers func([]ocispec.Descriptor) // changes the image's
		tables func(layers []ocispec.Descriptor) []ocispec.Descriptor
		config string
		code   reason.Code
		detail string
	}{
		"a table a layer":        {nil, func(l []ocispec.Descriptor) []ocispec.Descriptor { return l }, "", reason.None, ""},
		"a small layer has none": {nil, func(l []ocispec.Descriptor) []ocispec.Descriptor { return l[:1] }, "", reason.None, ""},
		"a large layer has none": {
			func(l []ocispec.Descriptor) { l[1].Size = 100 << 20 }, func(l []ocispec.Descriptor) []ocispec.Descriptor { return l[:1] }, "",
			reason.NoMatch, "1 of the image's 2 layers have no table, and 104857600 bytes",
		},
		"no tables":                {nil, func([]ocispec.Descriptor) []ocispec.Descriptor { return nil }, "", reason.ArtifactInvalid, "no tables"},
		"a table of another image": {nil, func(l []ocispec.Descriptor) []ocispec.Descriptor { return []ocispec.Descriptor{l[0], stranger} }, "", reason.LayerMismatch, "which the image does not have"},
		"an index of another kind": {nil, func(l []ocispec.Descriptor) []ocispec.Descriptor { return l }, typeSOCI, reason.ArtifactInvalid, "is of type"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reg := regtest.New(t, regtest.Options{})
			img := putImage(t, reg, "app", "", regtest.ImageSpec{})
			if tc.layers != nil {
				tc.layers(img.Manifest.Layers)
			}
			tables := tc.tables(img.Manifest.Layers)
			document := sociV2(tables...)
			if tc.config != "" {
				document["config"] = ocispec.Descriptor{MediaType: tc.config, Digest: ocispec.DescriptorEmptyJSON.Digest, Size: 2}
			}
			index, err := reg.PutJSON("app", "", ocispec.MediaTypeImageManifest, document)
			if err != nil {
				t.Fatal(err)
			}
			putMarked(t, reg, img, sociMark(index.Digest.String()))
			p := plan(t, newNegotiator(t, negotiate.Options{}), reg.Ref("app", "1"))
			if p.Reason != tc.code || !strings.Contains(p.Detail, tc.detail) {
				t.Fatalf("%s: %s, want %s: %s", p.Reason, p.Detail, tc.code, tc.detail)
			}
			if !p.Lazy() {
				return
			}
			if c := p.Chosen; len(c.Layers) != 2 || len(c.Tables) != len(tables) || c.Artifact.Size != index.Size || !c.Bound {
				t.Errorf("chosen %+v", c)
			}
		})
	}
}

// TestReferenceSOCIImages plans images whose indexes soci itself wrote.
func TestReferenceSOCIImages(t *testing.T) {
	t.Parallel()
	for tag, bound := range map[string]bool{"tiny": false, "tiny-soci-v2": true} {
		t.Run(tag, func(t *testing.T) {
			t.Parallel()
			reg := regtest.New(t, regtest.Options{})
			if _, err := reg.LoadLayout("lab/tiny", filepath.Join(testdata.Dir(t, "reference"), "tiny")); err != nil {
				t.Fatal(err)
			}
			n := newNegotiator(t, negotiate.Options{Policy: negotiate.Uniform(negotiate.Rules{Formats: []string{"soci"}})})
			p := plan(t, n, reg.Ref("lab/tiny", tag))
			if !p.Lazy() {
				t.Fatalf("%s: %s", p.Reason, p.Detail)
			}
			c := p.Chosen
			if c.Format != "soci" || c.Bound != bound || c.Foreign || len(c.Layers) != 4 || len(c.Tables) != 4 || c.Artifact.Size == 0 {
				t.Errorf("chosen %+v", c)
			}
		})
	}
}

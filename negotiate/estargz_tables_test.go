package negotiate_test

import (
	"path/filepath"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/internal/registry"
	"github.com/referee-cri/referee/internal/regtest"
	"github.com/referee-cri/referee/internal/testdata"
	"github.com/referee-cri/referee/negotiate"
)

const keyTableOf = "containerd.io/snapshot/stargz/layer.digest"

func TestExternalTablesAreThoseOfTheLayers(t *testing.T) {
	t.Parallel()
	reg := regtest.New(t, regtest.Options{})
	if _, err := reg.LoadLayout("app", filepath.Join(testdata.Dir(t, "reference"), "estargz-external-toc")); err != nil {
		t.Fatal(err)
	}
	n := newNegotiator(t, negotiate.Options{})
	for _, tag := range []string{"tiny-estargz-ext", "tiny-estargz-keepdiffid"} {
		p := plan(t, n, reg.Ref("app", tag))
		if p.Reason != reason.None || p.Chosen.Format != "estargz" || len(p.Chosen.Tables) > 0 {
			t.Fatalf("%s: plan %+v for reason %q", tag, p.Chosen, p.Reason)
		}
		tables, err := n.ExternalTables(t.Context(), p, registry.Credentials{})
		if err != nil || len(tables) != len(p.Image.Layers) {
			t.Fatalf("%s: %d tables, %v, want one for each of %d layers", tag, len(tables), err, len(p.Image.Layers))
		}
		for i, table := range tables {
			if of := table.Annotations[keyTableOf]; of != p.Image.Layers[i].Digest.String() {
				t.Errorf("%s: table %d is of layer %s", tag, i, of)
			}
		}
	}
}

func TestExternalTablesThatAreNotThere(t *testing.T) {
	t.Parallel()
	reg := regtest.New(t, regtest.Options{})
	img := putImage(t, reg, "app", "", regtest.ImageSpec{})
	putMarked(t, reg, img, marks(ocispec.MediaTypeImageLayerGzip, toc(), toc()))
	n := newNegotiator(t, negotiate.Options{})
	expect := func(ref string, want reason.Code) {
		t.Helper()
		tables, err := n.ExternalTables(t.Context(), plan(t, n, ref), registry.Credentials{})
		if got := reason.Of(err); got != want {
			t.Errorf("%s: tables %v, error %v has code %q, want %q", ref, tables, err, got, want)
		}
	}
	expect(reg.Ref("app", "1"), reason.NotFound)
	expect(reg.Ref("app", img.Descriptor.Digest.String()), reason.NotFound)

	other := img.Manifest // its layers are tables of nothing
	if _, err := reg.PutJSON("app", "1-esgztoc", ocispec.MediaTypeImageManifest, other); err != nil {
		t.Fatal(err)
	}
	expect(reg.Ref("app", "1"), reason.ArtifactInvalid)
}

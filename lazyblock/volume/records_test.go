package volume

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func specOf(layers ...string) Spec {
	spec := Spec{Format: "plain", Repository: "registry.test/app", Reference: "registry.test/app:1"}
	for _, layer := range layers {
		spec.Layers = append(spec.Layers, ocispec.Descriptor{
			MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromString(layer), Size: int64(len(layer)),
		})
	}
	return spec
}

func TestIDNamesContentAndWhoAnswersForIt(t *testing.T) {
	t.Parallel()
	stack := func(layers ...string) Spec {
		spec := specOf(layers...)
		spec.Format = "overlaybd" // of which there are records of earlier versions
		return spec
	}
	base := stack("a", "b")
	neighbour := base
	neighbour.Repository, neighbour.Reference = "registry.test/copy/app", "registry.test/copy/app@sha256:0"
	elsewhere := base
	elsewhere.Repository = "mirror.test/app"
	otherFormat := base
	otherFormat.Format = "fancy"
	otherChain := base
	otherChain.Chain = digest.FromString("chain")

	if got, want := base.ID(), "fa0cc8bde8644bf4c98c130db4973b0a"; got != want {
		t.Errorf("ID = %s, want %s: records of earlier versions would be lost", got, want)
	}
	if base.ID() != neighbour.ID() {
		t.Error("the same layers from another repository of the registry are another volume")
	}
	for name, other := range map[string]Spec{
		"another format": otherFormat, "another registry": elsewhere, "another chain": otherChain, "another order": stack("b", "a"), "a layer less": stack("a"), "a layer more": stack("a", "b", "c"),
	} {
		if other.ID() == base.ID() {
			t.Errorf("%s is the same volume", name)
		}
	}
	raw, wrapped := otherFormat, otherFormat
	wrapped.Layers = slices.Clone(raw.Layers)
	wrapped.Layers[0].MediaType += "+zstd"
	if raw.ID() == wrapped.ID() {
		t.Error("layers that are to be read in another way are the same volume")
	}
}

func TestRecordsComeBackAsWritten(t *testing.T) {
	t.Parallel()
	r := records{dir: t.TempDir()}
	spec := specOf("a", "b")
	spec.Artifact = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("artifact"), Size: 9}
	for range 2 { // the second replaces the first
		if err := r.write(spec.ID(), spec); err != nil {
			t.Fatal(err)
		}
	}
	got, err := r.read(spec.ID())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(spec, got); diff != "" {
		t.Errorf("record changed (-written +read):\n%s", diff)
	}
	info, err := os.Stat(r.path(spec.ID()))
	if err != nil {
		t.Fatal(err)
	}
	if mode := info.Mode().Perm(); mode != 0o600 {
		t.Errorf("record has mode %o, want 600", mode)
	}
	for range 2 { // removing what is gone is no error
		if err := r.remove(spec.ID()); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.read(spec.ID()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("read after remove: %v", err)
	}
}

func TestRecordsThatLieAreSkipped(t *testing.T) {
	t.Parallel()
	r := records{dir: t.TempDir()}
	good := specOf("a")
	if err := r.write(good.ID(), good); err != nil {
		t.Fatal(err)
	}
	renamed := specOf("b").ID()
	if err := r.write(renamed, specOf("c")); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		specOf("d").ID() + recordSuffix: `{"format": `,
		specOf("e").ID() + recordSuffix: ``,
		"README":                        `not a record`,
	} {
		if err := os.WriteFile(filepath.Join(r.dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, id := range []string{renamed, specOf("d").ID(), specOf("e").ID()} {
		if spec, err := r.read(id); err == nil {
			t.Errorf("record %s was read as %+v", id, spec)
		}
	}
	listed, err := r.list()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]Spec{good.ID(): good}, listed); diff != "" {
		t.Errorf("list (-want +got):\n%s", diff)
	}
	ids, err := r.ids()
	if err != nil || len(ids) != 4 {
		t.Errorf("ids = %q, %v; want the four records, readable or not", ids, err)
	}
}

package e2e_test

import (
	"fmt"
	"path/filepath"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/e2e/node"
	"github.com/referee-cri/referee/internal/testdata"
	"github.com/referee-cri/referee/internal/treecmp"
)

// turboEROFSDiffers is what the writer of TurboOCI's EROFS form changes.
var turboEROFSDiffers = []treecmp.Ignore{
	{Path: "/", Field: treecmp.FieldMode, Why: "makes it 0777"},
	{Path: "/nasty/names/**", Field: treecmp.FieldPresence, Why: "cuts the name of 255 bytes"},
	{Path: "/nasty/time/tenth", Field: treecmp.FieldNsec, Why: "reads a short fraction as nanoseconds"},
	{Path: "/nasty/xattr/trusted", Field: treecmp.FieldXattrs, Why: "keeps trusted.lab"},
}

// TestFormsOverOriginalLayers pulls images through indexes of the layers that they
// have anyway, runs them, across a restart of the daemon too, and removes them.
func TestFormsOverOriginalLayers(t *testing.T) {
	t.Parallel()
	layout := filepath.Join(testdata.Dir(t, "reference"), "tiny")
	for name, tc := range map[string]struct {
		form, format string // form: the only one that is attached; "": all that are
		tag          string
		differs      []treecmp.Ignore
	}{
		"SOCI, attached":           {"", "soci", "tiny", nil},
		"SOCI, in the image index": {"", "soci", "tiny-soci-v2", nil},
		"TurboOCI, ext4":           {"tiny-turbooci-ext4", "turbooci", "tiny", stockDiffers},
		"TurboOCI, EROFS":          {"tiny-turbooci-erofs", "turbooci", "tiny", turboEROFSDiffers},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBed(t, node.Options{}, fmt.Sprintf("[[policy]]\nmatch = [\"127.0.0.1:*/tiny\"]\nformats = [%q]\nmin_size = \"0B\"\n", tc.format))
			if tc.form == "" {
				b.pushLayout(t, layout)
			} else {
				b.pushOriginal(t, layout)
				b.attachOne(t, layout, "tiny", tc.form)
			}
			ref := b.registry.Ref("tiny", tc.tag)
			b.pullAs(t, ref, tc.format)
			b.runAndRemove(t, ref, tc.differs)
		})
	}
}

// attachOne stores a form of the layout beside the image that it is of.
func (b *bed) attachOne(t *testing.T, layout, repository, tag string) {
	t.Helper()
	form := readLayout(t, layout, tag)
	for _, blob := range append([]ocispec.Descriptor{form.manifest.Config}, form.manifest.Layers...) {
		b.putBlob(t, layout, blob)
	}
	if _, err := b.registry.PutManifest(repository, "", form.descriptor.MediaType, form.bytes); err != nil {
		t.Fatal(err)
	}
}

package e2e_test

import (
	"fmt"
	"path/filepath"
	"slices"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/e2e/node"
	"github.com/referee-cri/referee/fallback"
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
				if _, err := b.registry.LoadLayout("tiny", layout); err != nil {
					t.Fatal(err)
				}
			} else {
				b.pushOriginal(t, layout)
				b.attachOne(t, layout, "tiny", tc.form)
			}
			ref := b.registry.Ref("tiny", tc.tag)
			if entry := b.pull(t, ref, fallback.Lazy); entry.Format != tc.format {
				t.Errorf("attached as %q, want %q", entry.Format, tc.format)
			}
			container := start(t, b.lazy, ref, "/bin/busybox", "sleep", "1000")
			differs := slices.Concat(madeByRuntime, tc.differs, unlikeOverlay)
			expectTree(t, loadTree(t, "tiny.tree.jsonl"), treeOf(t, b.Node, container), differs...)
			if lower := lowerDirs(t, b.Node, container); len(lower) != 1 {
				t.Errorf("the container stands on %d directories, want one: %v", len(lower), lower)
			}

			b.end(t, b.referee.Kill)
			b.begin(t)
			dropCaches(t)
			expectTree(t, loadTree(t, "tiny.tree.jsonl"), treeOf(t, b.Node, container), differs...)
			again := start(t, b.lazy, ref, "/bin/busybox", "sleep", "1000")
			if out, err := again.Output(t.Context(), "/bin/busybox", "echo", "answers"); err != nil || out != "answers\n" {
				t.Errorf("container says %q, %v", out, err)
			}
			removePod(t, container)
			removePod(t, again)
			b.expectReleased(t, ref)
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

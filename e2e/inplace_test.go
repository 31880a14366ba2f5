package e2e_test

import (
	"path/filepath"
	"slices"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/e2e/node"
	"github.com/referee-cri/referee/internal/testdata"
	"github.com/referee-cri/referee/internal/treecmp"
)

// stargzDiffers is what tables of contents by stargz-snapshotter lose.
var stargzDiffers = []treecmp.Ignore{
	{Field: treecmp.FieldNsec, Why: "its times have whole seconds"},
	{Path: "/nasty/time/tenth", Field: treecmp.FieldMtime, Why: "rounds half a second up"},
	{Path: "/nasty/time/year-2040-nsec", Field: treecmp.FieldMtime, Why: "rounds up"},
}

// TestFormsInTheImageItself pulls images whose own layers are seekable, runs them,
// across a restart of the daemon too, and removes them.
func TestFormsInTheImageItself(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		folder, tag, format string
		differs             []treecmp.Ignore
	}{
		"eStargz":                            {"estargz", "tiny-estargz", "estargz", stargzDiffers},
		"eStargz with tables elsewhere":      {"estargz-external-toc", "tiny-estargz-keepdiffid", "estargz", stargzDiffers},
		"zstd:chunked by stargz-snapshotter": {"zstdchunked-stargz", "tiny-zstdchunked", "zstdchunked", stargzDiffers},
		"zstd:chunked by containers/storage": {"zstdchunked-skopeo", "tiny-zstdchunked-skopeo", "zstdchunked", nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBed(t, node.Options{}, "")
			b.pushLayout(t, filepath.Join(testdata.Dir(t, "reference"), tc.folder))
			ref := b.registry.Ref("tiny", tc.tag)
			b.pullAs(t, ref, tc.format)
			b.runAndRemove(t, ref, tc.differs)
		})
	}
}

// TestLayersWithoutTable pulls an eStargz image with an ordinary base and an
// ordinary layer on top.
func TestLayersWithoutTable(t *testing.T) {
	t.Parallel()
	b := newBed(t, node.Options{}, "")
	ordinary, seekable := filepath.Join(testdata.Dir(t, "reference"), "tiny"), filepath.Join(testdata.Dir(t, "reference"), "estargz")
	from, image := readLayout(t, ordinary, "tiny"), readLayout(t, seekable, "tiny-estargz")
	for i, layer := range image.manifest.Layers {
		if i == 0 || i == len(image.manifest.Layers)-1 {
			image.manifest.Layers[i], image.config.RootFS.DiffIDs[i] = from.manifest.Layers[i], from.config.RootFS.DiffIDs[i]
			b.putBlob(t, ordinary, from.manifest.Layers[i])
			continue
		}
		b.putBlob(t, seekable, layer)
	}
	config, err := b.registry.PutBlob(ocispec.MediaTypeImageConfig, mustJSON(t, image.config))
	if err != nil {
		t.Fatal(err)
	}
	image.manifest.Config = config
	if _, err := b.registry.PutManifest("mixed", "1", ocispec.MediaTypeImageManifest, mustJSON(t, image.manifest)); err != nil {
		t.Fatal(err)
	}
	ref := b.registry.Ref("mixed", "1")
	b.pullAs(t, ref, "estargz")
	container := start(t, b.lazy, ref, "/bin/busybox", "sleep", "1000")
	expectTree(t, loadTree(t, "tiny.tree.jsonl"), treeOf(t, b.Node, container), slices.Concat(madeByRuntime, stargzDiffers, unlikeOverlay)...)
	removePod(t, container)
	b.expectReleased(t, ref)
}

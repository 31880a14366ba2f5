package e2e_test

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/referee-cri/referee/e2e/node"
	"github.com/referee-cri/referee/fallback"
	"github.com/referee-cri/referee/internal/regtest"
	"github.com/referee-cri/referee/internal/testdata"
	"github.com/referee-cri/referee/internal/treecmp"
	"github.com/referee-cri/referee/negotiate"
)

// TestConvertedFormsRun converts an image to every format by the command line, and
// runs it from each on a node that has no other form of it.
func TestConvertedFormsRun(t *testing.T) {
	t.Parallel()
	b := newBed(t, node.Options{}, "")
	layout := filepath.Join(testdata.Dir(t, "reference"), "tiny")
	b.pushOriginal(t, layout)
	original := readLayout(t, layout, "tiny")
	for _, tc := range []struct {
		to, format string
		flags      []string
		differs    []treecmp.Ignore
	}{
		{"overlaybd", "overlaybd", nil, nil},
		{"soci", "soci", []string{"--min-layer-size", "0"}, nil},
		{"erofs", "erofs", nil, nil},
		{"disk", "disk", nil, nil},
		{"estargz", "estargz", []string{"--tag", "lazy"}, stargzDiffers},
		{"zstd-chunked", "zstdchunked", []string{"--tag", "lazy"}, stargzDiffers},
		{"soci-v2", "soci", []string{"--min-layer-size", "0", "--tag", "lazy"}, nil},
	} {
		if _, err := b.registry.PutManifest(tc.to, "tiny", original.descriptor.MediaType, original.bytes); err != nil {
			t.Fatal(err)
		}
		ref := b.registry.Ref(tc.to, "tiny")
		b.run(t, append([]string{"convert", ref, "--to", tc.to, "--temp-dir", t.TempDir()}, tc.flags...)...)
		if slices.Contains(tc.flags, "--tag") {
			ref = b.registry.Ref(tc.to, "lazy")
		}
		b.registry.ResetRequests()
		entry := b.pull(t, ref, fallback.Lazy)
		if entry.Format != tc.format {
			t.Errorf("%s: attached as %q, want %q", tc.to, entry.Format, tc.format)
		}
		fetched := slices.ContainsFunc(b.registry.Requests(), func(asked regtest.Entry) bool {
			return strings.HasSuffix(asked.Path, "/manifests/"+entry.Artifact.String())
		})
		if carried := tc.to != "soci"; entry.Found == negotiate.FoundReferrersAPI && fetched == carried {
			t.Errorf("%s: its manifest was fetched: %t, want %t", tc.to, fetched, !carried)
		}
		container := start(t, b.lazy, ref, "/bin/busybox", "sleep", "1000")
		expectTree(t, loadTree(t, "tiny.tree.jsonl"), treeOf(t, b.Node, container), slices.Concat(madeByRuntime, tc.differs, unlikeOverlay)...)
		removePod(t, container)
		b.expectReleased(t, ref)
		if t.Failed() {
			t.Fatalf("in %s", tc.to)
		}
	}
}

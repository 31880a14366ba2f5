package convert

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content/oci"

	"github.com/referee-cri/referee/internal/testdata"
	"github.com/referee-cri/referee/internal/treecmp"
)

// reference opens an image of the reference layout.
func reference(t testing.TB, tag string) (*oci.ReadOnlyStore, ocispec.Descriptor) {
	t.Helper()
	path := filepath.Join(testdata.Dir(t, "reference"), "tiny")
	store, err := oci.NewFromFS(context.Background(), os.DirFS(path))
	if err != nil {
		t.Fatal(err)
	}
	desc, err := store.Resolve(context.Background(), tag)
	if err != nil {
		t.Fatal(err)
	}
	return store, desc
}

// recorded loads the tree of the first n of total layers.
func recorded(t testing.TB, name string) treecmp.Tree {
	t.Helper()
	want, err := treecmp.Load(filepath.Join(testdata.Dir(t, "reference"), name))
	if err != nil {
		t.Fatal(err)
	}
	return want
}

var countsWhiteout = treecmp.Ignore{Path: "/wh/link-a", Field: treecmp.FieldNlink, Why: "the recording overlayfs still counts a whited-out name"}

func TestEveryPrefixIsTheRecordedTree(t *testing.T) {
	t.Parallel()
	store, desc := reference(t, "tiny")
	result, err := imageFrom(t.Context(), store, desc, Options{WorkDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	for n := 1; n <= len(result.Layers); n++ {
		t.Run(fmt.Sprintf("prefix %d", n), func(t *testing.T) {
			t.Parallel()
			name := "tiny.tree.jsonl"
			if n < len(result.Layers) {
				name = fmt.Sprintf("tiny.prefix%d.tree.jsonl", n)
			}
			want := recorded(t, name)
			image := mergedDisk(t, result.Layers[:n])
			fsck(t, image)
			expectTree(t, want, mountFile(t, image), countsWhiteout)
			expectTree(t, want, mountLoop(t, image), countsWhiteout)
		})
	}
}

func TestHardLinkMayNameALowerLayersFile(t *testing.T) {
	t.Parallel()
	store, desc := reference(t, "tiny-lower-link")
	result, err := imageFrom(t.Context(), store, desc, Options{WorkDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	image := mergedDisk(t, result.Layers)
	fsck(t, image)
	expectTree(t, recorded(t, "tiny-lower-link.tree.jsonl"), mountFile(t, image),
		treecmp.Ignore{Path: "/nasty/xattr/trusted", Field: treecmp.FieldXattrs, Why: "the recording unpacker keeps trusted.lab, containerd drops it"})
}

package convert

import (
	"fmt"
	"testing"

	"github.com/referee-cri/referee/internal/fsimage"
	"github.com/referee-cri/referee/internal/treecmp"
	"github.com/referee-cri/referee/lazyblock/convert/imagetest"
	"github.com/referee-cri/referee/lazyblock/format/formattest"
)

func TestEveryPrefixIsTheRecordedTree(t *testing.T) {
	t.Parallel()
	store, desc := imagetest.Reference(t, "tiny")
	result, err := imageFrom(t.Context(), store, desc, Options{WorkDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	for n := 1; n <= len(result.Layers); n++ {
		t.Run(fmt.Sprintf("prefix %d", n), func(t *testing.T) {
			t.Parallel()
			want := formattest.TinyTrees(t)[n-1]
			image := mergedDisk(t, result.Layers[:n])
			fsimage.CheckEROFS(t, image)
			treecmp.ExpectAt(t, want, fsimage.MountFile(t, image), formattest.CountsWhiteout)
			treecmp.ExpectAt(t, want, fsimage.MountLoop(t, "erofs", image), formattest.CountsWhiteout)
		})
	}
}

func TestHardLinkMayNameALowerLayersFile(t *testing.T) {
	t.Parallel()
	store, desc := imagetest.Reference(t, "tiny-lower-link")
	result, err := imageFrom(t.Context(), store, desc, Options{WorkDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	image := mergedDisk(t, result.Layers)
	fsimage.CheckEROFS(t, image)
	treecmp.ExpectAt(t, treecmp.Recorded(t, "tiny-lower-link.tree.jsonl"), fsimage.MountFile(t, image),
		treecmp.Ignore{Path: "/nasty/xattr/trusted", Field: treecmp.FieldXattrs, Why: "the recording unpacker keeps trusted.lab, containerd drops it"})
}

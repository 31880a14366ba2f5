package soci

import (
	"fmt"
	"testing"

	"github.com/referee-cri/referee/internal/treecmp"
	"github.com/referee-cri/referee/lazyblock/format/formattest"
)

func TestEveryPrefixIsTheRecordedTree(t *testing.T) {
	t.Parallel()
	form, trees := reference(t), formattest.TinyTrees(t)
	for n := 1; n <= len(form.Layers); n++ {
		t.Run(fmt.Sprintf("%d layers", n), func(t *testing.T) {
			t.Parallel()
			prefix := form
			prefix.Layers = form.Layers[:n]
			expectTree(t, trees[n-1], open(t, prefix))
		})
	}
}

func TestLayersWithoutTablesAreReadWhole(t *testing.T) {
	t.Parallel()
	form := reference(t)
	tables := form.Tables
	for n := range len(tables) + 1 {
		t.Run(fmt.Sprintf("%d tables", n), func(t *testing.T) {
			t.Parallel()
			form := form
			form.Tables = tables[:n]
			expectTree(t, treecmp.Recorded(t, "tiny.tree.jsonl"), open(t, form))
		})
	}
}

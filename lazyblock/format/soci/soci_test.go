package soci

import (
	"fmt"
	"testing"
)

func TestEveryPrefixIsTheRecordedTree(t *testing.T) {
	t.Parallel()
	form := reference(t)
	for n := 1; n <= len(form.Layers); n++ {
		t.Run(fmt.Sprintf("%d layers", n), func(t *testing.T) {
			t.Parallel()
			name := "tiny.tree.jsonl"
			if n < len(form.Layers) {
				name = fmt.Sprintf("tiny.prefix%d.tree.jsonl", n)
			}
			prefix := form
			prefix.Layers = form.Layers[:n]
			expectTree(t, recorded(t, name), tree(t, open(t, prefix)))
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
			expectTree(t, recorded(t, "tiny.tree.jsonl"), tree(t, open(t, form)))
		})
	}
}

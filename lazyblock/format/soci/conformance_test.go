package soci

import (
	"context"
	"testing"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/internal/treecmp"
	"github.com/referee-cri/referee/lazyblock"
	"github.com/referee-cri/referee/lazyblock/format/formattest"
)

// otherBytes is a damage of a blob that is compared with its digest as a whole.
func otherBytes(name string, index int, change func([]byte) []byte) formattest.Damage {
	damage := formattest.Corrupt(name, index, change)
	damage.Reason = reason.DigestMismatch
	return damage
}

func TestConformance(t *testing.T) {
	t.Parallel()
	layers, tables := formattest.Layers(t, imageManifest), formattest.Layers(t, indexV1)
	boundTables := formattest.Layers(t, indexV2)
	trees := formattest.TinyTrees(t)
	ignores := []treecmp.Ignore{formattest.CountsWhiteout} // the format loses nothing
	middle := func(b []byte) []byte { return formattest.Flip(b, len(b)/2) }
	short := func(b []byte) []byte { return b[:len(b)-1] }
	formattest.Run(t, formattest.Format{
		Open: func(ctx context.Context, form lazyblock.Form) (lazyblock.Volume, error) {
			return Open(ctx, form, Options{})
		},
		Cases: []formattest.Case{
			{
				Name: "index v1", Want: trees, Ignores: ignores,
				Image: formattest.Image{Layers: layers, Tables: tables},
				Damages: []formattest.Damage{
					formattest.Corrupt("a span that is not its digest's", 1, middle),
					formattest.Corrupt("a layer without its end", 1, short),
					otherBytes("a table that is not its digest's", 5, middle),
					otherBytes("a table without its end", 5, short),
				},
			},
			{Name: "index v2", Want: trees, Ignores: ignores, Image: formattest.Image{Layers: layers, Tables: boundTables}},
			{
				Name: "two layers without tables", Want: trees, Ignores: ignores,
				Image: formattest.Image{Layers: layers, Tables: tables[1:3]},
				Damages: []formattest.Damage{
					otherBytes("a layer without a table that is not its digest's", 3, func(b []byte) []byte { return formattest.Flip(b, 4) }),
					formattest.Corrupt("a layer without a table that does not inflate", 0, middle),
					formattest.Corrupt("a layer without a table or an end", 0, short),
				},
			},
			{
				Name: "no tables", Want: trees, Ignores: ignores,
				Image: formattest.Image{Layers: layers},
			},
		},
	})
}

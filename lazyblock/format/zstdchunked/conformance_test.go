package zstdchunked_test

import (
	"context"
	"testing"

	"github.com/referee-cri/referee/internal/treecmp"
	"github.com/referee-cri/referee/lazyblock"
	"github.com/referee-cri/referee/lazyblock/format/formattest"
	"github.com/referee-cri/referee/lazyblock/format/zstdchunked"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	trees := formattest.TinyTrees(t)
	ignores := []treecmp.Ignore{formattest.CountsWhiteout}
	formattest.Run(t, formattest.Format{
		Open: func(ctx context.Context, form lazyblock.Form) (lazyblock.Volume, error) {
			return zstdchunked.Open(ctx, form, zstdchunked.Options{})
		},
		Cases: []formattest.Case{
			{
				Name: "by stargz-snapshotter", Want: trees, Ignores: append(ignores, formattest.RoundedTimes...),
				Image: formattest.Image{Layers: formattest.Reference(t, "zstdchunked-stargz", "tiny-zstdchunked")},
				Damages: []formattest.Damage{
					formattest.Corrupt("a table that is not its digest's", 1, func(b []byte) []byte { return formattest.Flip(b, len(b)-1000) }),
					formattest.Corrupt("a chunk that is not its digest's", 1, func(b []byte) []byte { return formattest.Flip(b, len(b)/2) }),
					formattest.Corrupt("a blob without its end", 1, func(b []byte) []byte { return b[:len(b)-100] }),
				},
			},
			{
				Name: "by containers/storage", Want: trees, Ignores: ignores,
				Image: formattest.Image{Layers: formattest.Reference(t, "zstdchunked-skopeo", "tiny-zstdchunked-skopeo")},
				Damages: []formattest.Damage{
					formattest.Corrupt("a table that is not its digest's", 1, func(b []byte) []byte { return formattest.Flip(b, len(b)-1000) }),
					formattest.Corrupt("a chunk that is not its digest's", 1, func(b []byte) []byte { return formattest.Flip(b, len(b)/2) }),
				},
			},
		},
	})
}

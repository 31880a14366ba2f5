package turbooci

import (
	"context"
	"testing"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/lazyblock"
	"github.com/referee-cri/referee/lazyblock/format/formattest"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	format := formattest.Format{
		Open: func(ctx context.Context, form lazyblock.Form) (lazyblock.Volume, error) {
			form.Tables = form.Tables[:len(form.Layers)] // a prefix has those of its layers
			return Open(ctx, form, Options{})
		},
		Unverified: true, // the bytes of original layers
	}
	layers := formattest.Layers(t, imageManifest)
	for fs, tc := range forms {
		format.Cases = append(format.Cases, formattest.Case{
			Name: fs, Want: formattest.TinyTrees(t), Ignores: tc.differs,
			Image: formattest.Image{Layers: layers, Tables: formattest.Layers(t, tc.manifest)},
			Damages: []formattest.Damage{
				formattest.Corrupt("a layer without its end", 1, func(b []byte) []byte { return b[:len(b)-1] }),
				formattest.Corrupt("a layer that does not inflate", 0, func(b []byte) []byte {
					clear(b[len(b)/2 : len(b)/2+4096])
					return b
				}),
				{Name: "an archive that is not its digest's", Reason: reason.DigestMismatch, Change: func(i int, b []byte) []byte {
					if i != 5 {
						return b
					}
					return formattest.Flip(append([]byte(nil), b...), len(b)/2)
				}},
			},
		})
	}
	formattest.Run(t, format)
}

package overlaybd_test

import (
	"context"
	"testing"

	"github.com/referee-cri/referee/internal/treecmp"
	"github.com/referee-cri/referee/lazyblock"
	"github.com/referee-cri/referee/lazyblock/format/formattest"
	"github.com/referee-cri/referee/lazyblock/format/overlaybd"
)

// What stock's converter changes in the reference image (reference README).
var stockDiffers = []treecmp.Ignore{
	formattest.CountsWhiteout,
	{Path: "/lost+found", Why: "its mkfs makes it"},
	{Field: treecmp.FieldNsec, Why: "drops nanoseconds"},
	{Path: "/nasty/owners/3000000-3000001", Field: treecmp.FieldUID, Why: "ignores PAX uid"},
	{Path: "/nasty/owners/3000000-3000001", Field: treecmp.FieldGID, Why: "ignores PAX gid"},
	{Path: "/nasty/time/year-2040", Field: treecmp.FieldMtime, Why: "wraps in 2038"},
	{Path: "/nasty/time/year-2040-nsec", Field: treecmp.FieldMtime, Why: "wraps in 2038"},
	{Path: "/nasty/xattr/trusted", Field: treecmp.FieldXattrs, Why: "keeps trusted.lab"},
}

func TestConformance(t *testing.T) {
	t.Parallel()
	trees := formattest.TinyTrees(t)
	damages := []formattest.Damage{
		formattest.Corrupt("a blob without its end", 1, func(b []byte) []byte { return b[:len(b)-2048] }),
		formattest.Corrupt("a ZFile header that is not its CRC's", 1, func(b []byte) []byte { return formattest.Flip(b, 1536+100) }),
		formattest.Corrupt("a block that is not its CRC's", 1, func(b []byte) []byte { return formattest.Flip(b, len(b)/2) }),
	}
	formattest.Run(t, formattest.Format{
		Open: func(ctx context.Context, form lazyblock.Form) (lazyblock.Volume, error) {
			device, err := overlaybd.Open(ctx, lazyblock.Readers(form.Layers), form.ID)
			if err != nil {
				return lazyblock.Volume{}, err
			}
			return lazyblock.Volume{FSType: "ext4", Primary: device}, nil
		},
		Cases: []formattest.Case{
			{Name: "lz4", Image: formattest.Image{Layers: formattest.Reference(t, "tiny", "tiny-overlaybd-lz4")}, Want: trees, Ignores: stockDiffers, Damages: damages},
			{Name: "zstd", Image: formattest.Image{Layers: formattest.Reference(t, "tiny", "tiny-overlaybd-zstd")}, Want: trees, Ignores: stockDiffers, Damages: damages},
		},
	})
}

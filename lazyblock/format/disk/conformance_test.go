package disk_test

import (
	"bytes"
	"context"
	"path/filepath"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/internal/fsimage"
	"github.com/referee-cri/referee/internal/testdata"
	"github.com/referee-cri/referee/internal/treecmp"
	"github.com/referee-cri/referee/lazyblock"
	"github.com/referee-cri/referee/lazyblock/format/disk"
	"github.com/referee-cri/referee/lazyblock/format/formattest"
)

// TestConformance reads the reference image as a disk of ext4, made by mkfs.ext4.
func TestConformance(t *testing.T) {
	t.Parallel()
	trees := formattest.TinyTrees(t)
	whole := trees[len(trees)-1:]
	merged := fsimage.Merge(t, fsimage.Unpack(t, filepath.Join(testdata.Dir(t, "reference"), "tiny"), "tiny"))
	ext4 := fsimage.Ext4(t, merged, "40M")
	vhd := fsimage.DynamicVHD(t, ext4)
	ignores := []treecmp.Ignore{
		formattest.CountsWhiteout,
		{Path: "/lost+found", Why: "mkfs.ext4 makes it"},
		{Field: treecmp.FieldNsec, Why: "mkfs.ext4 keeps whole seconds"},
		{Path: "/nasty/time/year-2040", Field: treecmp.FieldMtime, Why: "mkfs.ext4 1.47 wraps times behind 2038"},
		{Path: "/nasty/time/year-2040-nsec", Field: treecmp.FieldMtime, Why: "as above"},
	}
	open := func(ctx context.Context, form lazyblock.Form) (lazyblock.Volume, error) {
		return disk.Open(ctx, form, nil)
	}
	image := func(mediaType string, data []byte) formattest.Image {
		return formattest.Image{Layers: []formattest.Blob{{Descriptor: ocispec.Descriptor{MediaType: mediaType}, Data: data}}}
	}
	formattest.Run(t, formattest.Format{
		Open: open, Unverified: true,
		Cases: []formattest.Case{
			{
				Name: "as it is", Want: whole, Ignores: ignores, Image: image(disk.MediaTypeRaw, ext4),
				Damages: []formattest.Damage{
					formattest.Corrupt("a file system of another kind", 0, func(b []byte) []byte { return formattest.Flip(b, 1024+0x38) }),
					formattest.Corrupt("a disk without its end", 0, func(b []byte) []byte { return b[:len(b)-1] }),
				},
			},
			{
				Name: "in a dynamic VHD", Want: whole, Ignores: ignores, Image: image(disk.MediaTypeVHD, vhd),
				Damages: []formattest.Damage{
					formattest.Corrupt("a footer that is not its checksum's", 0, func(b []byte) []byte { return formattest.Flip(b, len(b)-512+48) }),
					formattest.Corrupt("a header that is not its checksum's", 0, func(b []byte) []byte { return formattest.Flip(b, 512+28) }),
					formattest.Corrupt("a block behind the end", 0, func(b []byte) []byte { return bytes.Replace(b, b[1536:1540], []byte{0x7f, 0, 0, 0}, 1) }),
				},
			},
		},
	})
	formattest.Run(t, formattest.Format{
		Open: open,
		Cases: []formattest.Case{{
			Name: "in a dynamic VHD in zstd", Want: whole, Ignores: ignores,
			Image: image(disk.MediaTypeVHD+disk.ZstdSuffix, fsimage.SeekableZstd(t, vhd, 256<<10)),
			Damages: []formattest.Damage{
				formattest.Corrupt("a frame that is not its checksum's", 0, func(b []byte) []byte { return formattest.Flip(b, len(b)/2) }),
				formattest.Corrupt("a table of other lengths", 0, func(b []byte) []byte { return formattest.Flip(b, len(b)-9-12) }),
			},
		}},
	})
}

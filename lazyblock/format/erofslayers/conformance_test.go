package erofslayers_test

import (
	"bytes"
	"context"
	"maps"
	"path"
	"path/filepath"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/internal/fsimage"
	"github.com/referee-cri/referee/internal/testdata"
	"github.com/referee-cri/referee/internal/treecmp"
	"github.com/referee-cri/referee/lazyblock"
	"github.com/referee-cri/referee/lazyblock/format/erofslayers"
	"github.com/referee-cri/referee/lazyblock/format/formattest"
)

// TestConformance reads the reference image as mkfs.erofs writes its layers, in
// several ways.
func TestConformance(t *testing.T) {
	t.Parallel()
	uppers := fsimage.Unpack(t, filepath.Join(testdata.Dir(t, "reference"), "tiny"), "tiny")
	for _, upper := range uppers {
		fsimage.DropLongNames(t, upper)
	}
	trees := formattest.TinyTrees(t)
	for _, tree := range trees {
		maps.DeleteFunc(tree, func(name string, _ treecmp.Entry) bool { return len(path.Base(name)) > fsimage.LongestName })
	}
	layers := func(mediaType string, wrap func([]byte) []byte, arguments ...string) formattest.Image {
		var img formattest.Image
		for _, upper := range uppers {
			img.Layers = append(img.Layers, formattest.Blob{
				Descriptor: ocispec.Descriptor{MediaType: mediaType}, Data: wrap(fsimage.EROFS(t, upper, arguments...)),
			})
		}
		return img
	}
	plain := func(b []byte) []byte { return b }
	damages := []formattest.Damage{
		formattest.Corrupt("a superblock of another kind", 2, func(b []byte) []byte { return formattest.Flip(b, 1024) }),
		formattest.Corrupt("a superblock that is not its checksum's", 2, func(b []byte) []byte { return formattest.Flip(b, 1024+48) }),
		formattest.Corrupt("an image without its end", 2, func(b []byte) []byte { return b[:len(b)-4096] }),
		formattest.Corrupt("names that are none", 2, func(b []byte) []byte { return bytes.ReplaceAll(b, []byte("setuid"), []byte("set/id")) }),
	}
	damagesWithin := []formattest.Damage{
		formattest.Corrupt("a superblock that is not its checksum's", 2, func(b []byte) []byte { return formattest.Flip(b, 1024+48) }),
		formattest.Corrupt("an image without its end", 2, func(b []byte) []byte { return b[:len(b)-4096] }),
		formattest.Corrupt("clusters that do not expand", 0, func(b []byte) []byte {
			clear(b[len(b)/2 : len(b)/2+64<<10])
			return b
		}),
	}
	ignores := []treecmp.Ignore{formattest.CountsWhiteout}
	open := func(ctx context.Context, form lazyblock.Form) (lazyblock.Volume, error) {
		return erofslayers.Open(ctx, form, nil)
	}
	formattest.Run(t, formattest.Format{
		Open: open, Unverified: true,
		Cases: []formattest.Case{
			{Name: "as containerd converts", Want: trees, Ignores: ignores, Damages: damages, Image: layers(erofslayers.MediaType, plain, "-Enoinline_data")},
			{Name: "with inline tails", Want: trees, Ignores: ignores, Image: layers(erofslayers.MediaType, plain)},
			{Name: "in LZ4", Want: trees, Ignores: ignores, Image: layers(erofslayers.MediaType, plain, "-zlz4"), Damages: damagesWithin},
			{Name: "in LZ4 with longer indexes", Want: trees, Ignores: ignores, Image: layers(erofslayers.MediaType, plain, "-zlz4hc,9", "-Elegacy-compress")},
			{Name: "in LZ4 in clusters of 64 KiB", Want: trees, Ignores: ignores, Image: layers(erofslayers.MediaType, plain, "-zlz4hc", "-C65536")},
			{Name: "in LZ4 in clusters of 64 KiB with longer indexes", Want: trees, Ignores: ignores, Image: layers(erofslayers.MediaType, plain, "-zlz4", "-C65536", "-Elegacy-compress")},
			{Name: "in LZ4 with packed tails", Want: trees, Ignores: ignores, Image: layers(erofslayers.MediaType, plain, "-zlz4", "-C16384", "-Eztailpacking")},
			{Name: "in small chunks", Want: trees, Ignores: ignores, Image: layers(erofslayers.MediaType, plain, "--chunksize=4096")},
		},
	})
	seekable := func(b []byte) []byte { return fsimage.SeekableZstd(t, b, 64<<10) }
	formattest.Run(t, formattest.Format{
		Open: open,
		Cases: []formattest.Case{{
			Name: "in zstd that can be sought", Want: trees, Ignores: ignores, Image: layers(erofslayers.MediaType+"+zstd", seekable),
			Damages: []formattest.Damage{
				formattest.Corrupt("a frame that is not its checksum's", 1, func(b []byte) []byte { return formattest.Flip(b, len(b)/2) }),
				formattest.Corrupt("a table of other lengths", 1, func(b []byte) []byte { return formattest.Flip(b, len(b)-9-12) }),
			},
		}},
	})
}

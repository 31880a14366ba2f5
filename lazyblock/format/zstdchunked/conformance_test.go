package zstdchunked_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"slices"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

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
			{
				Name: "on two layers without table", Want: trees, Ignores: append(ignores, formattest.RoundedTimes...),
				Image: formattest.Image{Layers: slices.Concat(
					withoutTable(t, formattest.Reference(t, "tiny", "tiny")[:2]),
					formattest.Reference(t, "zstdchunked-stargz", "tiny-zstdchunked")[2:],
				)},
				Damages: []formattest.Damage{
					formattest.Corrupt("a layer that does not decode", 0, func(b []byte) []byte { return formattest.Flip(b, len(b)/2) }),
				},
			},
		},
	})
}

// withoutTable compresses gzip layers anew, as BuildKit does: in one frame.
func withoutTable(t *testing.T, layers []formattest.Blob) []formattest.Blob {
	t.Helper()
	for i := range layers {
		gz, err := gzip.NewReader(bytes.NewReader(layers[i].Data))
		if err != nil {
			t.Fatal(err)
		}
		var stored bytes.Buffer
		z, err := zstd.NewWriter(&stored)
		if err == nil {
			_, err = io.Copy(z, gz)
		}
		if err == nil {
			err = z.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
		layers[i] = formattest.Blob{Data: stored.Bytes(), Descriptor: ocispec.Descriptor{
			MediaType: ocispec.MediaTypeImageLayerZstd, Digest: digest.FromBytes(stored.Bytes()), Size: int64(stored.Len()),
		}}
	}
	return layers
}

package nydus_test

import (
	"bytes"
	"context"
	"path/filepath"
	"testing"

	"github.com/referee-cri/referee/internal/fsimage"
	"github.com/referee-cri/referee/internal/rafstest"
	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/internal/testdata"
	"github.com/referee-cri/referee/internal/treecmp"
	"github.com/referee-cri/referee/lazyblock"
	"github.com/referee-cri/referee/lazyblock/format/formattest"
	"github.com/referee-cri/referee/lazyblock/format/nydus"
)

// TestConformance reads the reference image in each of the ways in which a Nydus
// image can be written.
func TestConformance(t *testing.T) {
	t.Parallel()
	layers := fsimage.Tars(t, filepath.Join(testdata.Dir(t, "reference"), "tiny"), "tiny")
	var originals [][]byte
	for _, layer := range formattest.Reference(t, "tiny", "tiny") {
		originals = append(originals, layer.Data)
	}
	trees := formattest.TinyTrees(t)
	whole := make([]treecmp.Tree, len(layers)+1)
	whole[len(layers)] = trees[len(trees)-1]
	var cases []formattest.Case
	for _, w := range []struct {
		name string
		opts rafstest.Options
	}{
		{"zstd and BLAKE3", rafstest.Options{Compression: rafstest.Zstd, ChunkSize: 1 << 20}},
		{"LZ4 and SHA-256 in small chunks", rafstest.Options{Compression: rafstest.LZ4, SHA256: true, ChunkSize: 4096}},
		{"gzip and chunks listed in blobs", rafstest.Options{Compression: rafstest.Gzip, NoChunks: true}},
		{"not compressed and chunks listed in version 2", rafstest.Options{NoChunks: true, V2: true}},
		{"batches", rafstest.Options{Compression: rafstest.Zstd, Batch: 32 << 10}},
		{"batches listed in blobs", rafstest.Options{Compression: rafstest.LZ4, Batch: 128 << 10, NoChunks: true, SHA256: true}},
		{"data in original layers", rafstest.Options{Zran: true}},
		{"data in original layers that zlib wrote", rafstest.Options{Originals: true, ChunkSize: 1 << 20, NoChunks: true, SHA256: true}},
	} {
		var img formattest.Image
		from, data := layers, 1
		if w.opts.Originals {
			from = originals
		}
		written := rafstest.Write(t, from, w.opts)
		descriptors, contents := written.Layers(t)
		for i, d := range descriptors {
			img.Layers = append(img.Layers, formattest.Blob{Descriptor: d, Data: contents[i]})
		}
		for i, d := range written.Tables() {
			img.Tables = append(img.Tables, formattest.Blob{Descriptor: d, Data: written.Originals[i]})
			data = len(img.Layers) + 1
		}
		cases = append(cases, formattest.Case{
			Name: w.name, Image: img, Want: whole, Ignores: []treecmp.Ignore{formattest.CountsWhiteout},
			Damages: []formattest.Damage{
				formattest.Corrupt("a chunk that is not its digest's", data, func(b []byte) []byte { return formattest.Flip(b, 100_000) }),
				formattest.Corrupt("a blob without its end", data, func(b []byte) []byte { return b[:100_000] }),
				{Name: "a bootstrap that is not its digest's", Reason: reason.DigestMismatch, Change: func(i int, b []byte) []byte {
					if i < len(layers) {
						return b
					}
					return formattest.Flip(bytes.Clone(b), len(b)/2)
				}},
			},
		})
	}
	formattest.Run(t, formattest.Format{
		Open: func(ctx context.Context, form lazyblock.Form) (lazyblock.Volume, error) {
			return nydus.Open(ctx, form, nil)
		},
		Cases: cases,
	})
}

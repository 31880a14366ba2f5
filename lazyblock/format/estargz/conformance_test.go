package estargz_test

import (
	"context"
	"testing"

	writer "github.com/containerd/stargz-snapshotter/estargz"
	"github.com/opencontainers/go-digest"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/internal/treecmp"
	"github.com/referee-cri/referee/lazyblock"
	"github.com/referee-cri/referee/lazyblock/format/estargz"
	"github.com/referee-cri/referee/lazyblock/format/formattest"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	trees := formattest.TinyTrees(t)
	ignores := append([]treecmp.Ignore{formattest.CountsWhiteout}, formattest.RoundedTimes...)
	formattest.Run(t, formattest.Format{
		Open: func(ctx context.Context, form lazyblock.Form) (lazyblock.Volume, error) {
			return estargz.Open(ctx, form, estargz.Options{})
		},
		Cases: []formattest.Case{
			{
				Name: "table inside", Want: trees, Ignores: ignores,
				Image: formattest.Image{Layers: formattest.Reference(t, "estargz", "tiny-estargz")},
				Damages: []formattest.Damage{
					formattest.Corrupt("a footer of another kind", 1, func(b []byte) []byte { return formattest.Flip(b, len(b)-51) }),
					formattest.Corrupt("a footer that names another place", 1, func(b []byte) []byte { return formattest.Flip(b, len(b)-51+31) }),
					formattest.Corrupt("a footer that names a place behind it", 1, func(b []byte) []byte {
						copy(b[len(b)-51+16:], "7fffffffffffffff")
						return b
					}),
					formattest.Corrupt("a table that is not its digest's", 1, func(b []byte) []byte { return formattest.Flip(b, len(b)-51-1000) }),
					formattest.Corrupt("a chunk that is not its digest's", 1, func(b []byte) []byte { return formattest.Flip(b, len(b)/2) }),
					formattest.Corrupt("a blob without its end", 1, func(b []byte) []byte { return b[:len(b)-1] }),
				},
			},
			{
				Name: "table elsewhere", Want: trees, Ignores: ignores,
				Image: formattest.Image{
					Layers: formattest.Reference(t, "estargz-external-toc", "tiny-estargz-ext"),
					Tables: formattest.Reference(t, "estargz-external-toc", "tiny-estargz-ext-esgztoc"),
				},
				Damages: []formattest.Damage{
					formattest.Corrupt("a table that is not its digest's", 4, func(b []byte) []byte { return formattest.Flip(b, len(b)/2) }),
					formattest.Corrupt("a table without its end", 4, func(b []byte) []byte { return b[:len(b)/2] }),
					formattest.Corrupt("a chunk that is not its digest's", 1, func(b []byte) []byte { return formattest.Flip(b, len(b)/2) }),
				},
			},
			{
				Name: "table elsewhere, diff IDs kept", Want: trees, Ignores: ignores,
				Image: formattest.Image{
					Layers: formattest.Reference(t, "estargz-external-toc", "tiny-estargz-keepdiffid"),
					Tables: formattest.Reference(t, "estargz-external-toc", "tiny-estargz-keepdiffid-esgztoc"),
				},
			},
			{
				Name: "two layers without table", Want: trees, Ignores: ignores,
				Image: formattest.Image{Layers: withoutTable(t, formattest.Reference(t, "estargz", "tiny-estargz"), 0, 3)},
				Damages: []formattest.Damage{
					formattest.Corrupt("a layer that does not inflate", 0, func(b []byte) []byte { return formattest.Flip(b, len(b)/2) }),
				},
			},
			{
				Name: "chunks that share members", Want: trees, Ignores: ignores,
				Image: formattest.Image{Layers: written(t, writer.WithChunkSize(64<<10), writer.WithMinChunkSize(50_000), writer.WithPrioritizedFiles([]string{"bin/busybox"}))},
			},
		},
	})
}

// withoutTable puts ordinary layers in the place of some.
func withoutTable(t *testing.T, layers []formattest.Blob, which ...int) []formattest.Blob {
	t.Helper()
	ordinary := formattest.Reference(t, "tiny", "tiny")
	for _, i := range which {
		layers[i] = ordinary[i]
	}
	return layers
}

func TestWhatNothingVouchesForIsRefused(t *testing.T) {
	t.Parallel()
	inside := formattest.Reference(t, "estargz", "tiny-estargz")
	outside := formattest.Reference(t, "estargz-external-toc", "tiny-estargz-ext")
	for name, tc := range map[string]struct {
		layers []formattest.Blob
		toc    string // annotation of the first layer
		want   reason.Code
	}{
		"no digest of the table":    {inside, "", reason.ArtifactInvalid},
		"no digest at all":          {inside, "sha256:0", reason.ArtifactInvalid},
		"the digest of another":     {inside, digest.FromString("another").String(), reason.FormatCorrupt},
		"a table that is elsewhere": {outside, outside[0].Descriptor.Annotations[estargz.AnnotationTOCDigest], reason.ArtifactInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			form := formattest.Image{Layers: tc.layers}.Form("test")
			form.Layers[0].Descriptor.Annotations = map[string]string{estargz.AnnotationTOCDigest: tc.toc}
			v, err := estargz.Open(t.Context(), form, estargz.Options{})
			if err == nil {
				_ = v.Close() // the test has failed already
			}
			if got := reason.Of(err); got != tc.want {
				t.Errorf("error %v has code %q, want %q", err, got, tc.want)
			}
		})
	}
}

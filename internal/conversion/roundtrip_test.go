package conversion_test

import (
	"context"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/internal/conversion"
	"github.com/referee-cri/referee/internal/regtest"
	"github.com/referee-cri/referee/internal/treecmp"
	"github.com/referee-cri/referee/lazyblock"
	"github.com/referee-cri/referee/lazyblock/convert/stargz"
	"github.com/referee-cri/referee/lazyblock/format/disk"
	"github.com/referee-cri/referee/lazyblock/format/erofslayers"
	"github.com/referee-cri/referee/lazyblock/format/estargz"
	"github.com/referee-cri/referee/lazyblock/format/formattest"
	"github.com/referee-cri/referee/lazyblock/format/soci"
	"github.com/referee-cri/referee/lazyblock/format/zstdchunked"
)

// blobs fetches what descriptors name.
func blobs(t *testing.T, reg *regtest.Registry, descriptors []ocispec.Descriptor) (fetched []lazyblock.FormBlob) {
	t.Helper()
	for _, d := range descriptors {
		fetched = append(fetched, lazyblock.FormBlob{RangeReader: lazyblock.InMemory(fetchBytes(t, reg, d)), Descriptor: d})
	}
	return fetched
}

// TestFormsMountAsTheImage converts the reference image, plans as a node does, opens
// what was chosen with this version's readers and lets the kernel list it.
func TestFormsMountAsTheImage(t *testing.T) {
	t.Parallel()
	want := treecmp.Recorded(t, "tiny.tree.jsonl")
	for name, tc := range map[string]struct {
		target  conversion.Target
		open    func(context.Context, lazyblock.Form) (lazyblock.Volume, error)
		ignores []treecmp.Ignore
	}{
		"estargz": {conversion.Stargz{ChunkSize: 256 << 10}, func(ctx context.Context, form lazyblock.Form) (lazyblock.Volume, error) {
			return estargz.Open(ctx, form, estargz.Options{})
		}, formattest.RoundedTimes},
		"zstd-chunked": {conversion.Stargz{Format: stargz.ZstdChunked, ChunkSize: 256 << 10}, func(ctx context.Context, form lazyblock.Form) (lazyblock.Volume, error) {
			return zstdchunked.Open(ctx, form, zstdchunked.Options{})
		}, formattest.RoundedTimes},
		"soci": {conversion.SOCI{}, func(ctx context.Context, form lazyblock.Form) (lazyblock.Volume, error) {
			return soci.Open(ctx, form, soci.Options{})
		}, nil},
		"soci-v2": {conversion.SOCIv2{SOCI: conversion.SOCI{SpanSize: 128 << 10}}, func(ctx context.Context, form lazyblock.Form) (lazyblock.Volume, error) {
			return soci.Open(ctx, form, soci.Options{})
		}, nil},
		"erofs": {conversion.NewErofs(), func(ctx context.Context, form lazyblock.Form) (lazyblock.Volume, error) {
			return erofslayers.Open(ctx, form, nil)
		}, nil},
		"disk": {conversion.NewDisk(false), func(ctx context.Context, form lazyblock.Form) (lazyblock.Volume, error) {
			return disk.Open(ctx, form, nil)
		}, nil},
		"compressed disk": {conversion.NewDisk(true), func(ctx context.Context, form lazyblock.Form) (lazyblock.Volume, error) {
			return disk.Open(ctx, form, nil)
		}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reg := regtest.New(t, regtest.Options{})
			copyTag(t, load(t), reg, "tiny")
			opts := conversion.Options{Source: reg.Ref("app", "tiny"), To: tc.target, TempDir: t.TempDir()}
			found := "tiny"
			if tc.target.Keeps() != "" {
				opts.Reference, found = "lazy", "lazy"
			}
			made, err := conversion.Run(t.Context(), opts)
			if err != nil {
				t.Fatal(err)
			}
			p := plan(t, reg.Ref("app", found), "linux/amd64")
			if !p.Lazy() {
				t.Fatalf("a node finds nothing of %+v: %s: %s", made, p.Reason, p.Detail)
			}
			volume, err := tc.open(t.Context(), lazyblock.Form{ID: "v", Layers: blobs(t, reg, p.Chosen.Layers), Tables: blobs(t, reg, p.Chosen.Tables)})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = volume.Close() })
			treecmp.ExpectAt(t, want, formattest.Mount(t, volume), append(tc.ignores, formattest.CountsWhiteout)...)
		})
	}
}

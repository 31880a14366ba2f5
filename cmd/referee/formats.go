package main

import (
	"context"
	"fmt"

	"github.com/referee-cri/referee/lazyblock"
	"github.com/referee-cri/referee/lazyblock/format/disk"
	"github.com/referee-cri/referee/lazyblock/format/erofslayers"
	"github.com/referee-cri/referee/lazyblock/format/estargz"
	"github.com/referee-cri/referee/lazyblock/format/nydus"
	"github.com/referee-cri/referee/lazyblock/format/overlaybd"
	"github.com/referee-cri/referee/lazyblock/format/soci"
	"github.com/referee-cri/referee/lazyblock/format/span"
	"github.com/referee-cri/referee/lazyblock/format/turbooci"
	"github.com/referee-cri/referee/lazyblock/format/zstdchunked"
	"github.com/referee-cri/referee/lazyblock/volume"
)

// formats are the formats whose layers can be opened here. What they decode to
// serve a part of it is kept in one memory, and behind that where scratch says; nil:
// nowhere.
func formats(scratch func() (span.Scratch, error)) map[string]volume.Opener {
	memory := span.NewMemory(span.DefaultMemory, scratch)
	return map[string]volume.Opener{
		"overlaybd": openOverlaybd,
		"disk": func(ctx context.Context, form lazyblock.Form) (lazyblock.Volume, error) {
			return disk.Open(ctx, form, memory)
		},
		"erofs": func(ctx context.Context, form lazyblock.Form) (lazyblock.Volume, error) {
			return erofslayers.Open(ctx, form, memory)
		},
		"estargz": func(ctx context.Context, form lazyblock.Form) (lazyblock.Volume, error) {
			return estargz.Open(ctx, form, estargz.Options{Memory: memory})
		},
		"nydus": func(ctx context.Context, form lazyblock.Form) (lazyblock.Volume, error) {
			return nydus.Open(ctx, form, memory)
		},
		"soci": func(ctx context.Context, form lazyblock.Form) (lazyblock.Volume, error) {
			return soci.Open(ctx, form, soci.Options{Memory: memory})
		},
		"turbooci": func(ctx context.Context, form lazyblock.Form) (lazyblock.Volume, error) {
			return turbooci.Open(ctx, form, turbooci.Options{Memory: memory})
		},
		"zstdchunked": func(ctx context.Context, form lazyblock.Form) (lazyblock.Volume, error) {
			return zstdchunked.Open(ctx, form, zstdchunked.Options{Memory: memory})
		},
	}
}

func openOverlaybd(ctx context.Context, form lazyblock.Form) (lazyblock.Volume, error) {
	accelerated := make(chan *overlaybd.Acceleration, 1)
	go func() { accelerated <- acceleration(ctx, form.Tables) }() // beside the layers; ends with ctx at the latest
	device, err := overlaybd.Open(ctx, lazyblock.Readers(form.Layers), form.ID)
	starts := <-accelerated
	if err != nil {
		return lazyblock.Volume{}, err
	}
	fsType, err := lazyblock.FSType(ctx, device)
	if err != nil {
		_ = device.Close()
		return lazyblock.Volume{}, fmt.Errorf("overlaybd device: %w", err)
	}
	return lazyblock.Volume{FSType: fsType, Primary: device, Hints: device.Hints(starts.Records), Paths: starts.Paths}, nil
}

// acceleration reads what an overlaybd form says of its starts. It is advice: what
// cannot be read says nothing.
func acceleration(ctx context.Context, tables []lazyblock.FormBlob) *overlaybd.Acceleration {
	for _, table := range tables {
		if starts, err := overlaybd.ReadAcceleration(ctx, table); err == nil {
			return starts
		}
	}
	return &overlaybd.Acceleration{}
}

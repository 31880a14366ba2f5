package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/awslabs/soci-snapshotter/soci"
	"github.com/awslabs/soci-snapshotter/soci/store"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/plugins/content/local"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// convert writes index and tables into the layout, with the span and the least
// size of a layer that `soci convert` uses (4 MiB and 10 MiB).
func convert(ctx context.Context, layout string) (err error) {
	var index ocispec.Index
	text, err := os.ReadFile(filepath.Join(layout, ocispec.ImageIndexFile))
	if err == nil {
		err = json.Unmarshal(text, &index)
	}
	if err != nil || len(index.Manifests) == 0 {
		return fmt.Errorf("read layout of %d images: %w", len(index.Manifests), err)
	}
	content, err := local.NewStore(layout)
	if err != nil {
		return err
	}
	blobs, err := store.NewSociStore(layout)
	if err != nil {
		return err
	}
	temp, err := os.MkdirTemp("", "soci")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(temp)) }()
	artifacts, err := soci.NewDB(soci.ArtifactsDbPath(temp))
	if err != nil {
		return err
	}
	builder, err := soci.NewIndexBuilder(content, blobs, soci.WithArtifactsDb(artifacts))
	if err != nil {
		return err
	}
	// It tells on standard output what it does, where the descriptor has to be alone.
	stdout := os.Stdout
	os.Stdout = os.Stderr
	image := index.Manifests[0]
	form, err := builder.Convert(ctx, images.Image{Target: image})
	os.Stdout = stdout
	if err != nil {
		return fmt.Errorf("convert %s: %w", image.Digest, err)
	}
	return json.NewEncoder(stdout).Encode(form)
}

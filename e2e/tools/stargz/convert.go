package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/images/converter"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/platforms"
	"github.com/containerd/stargz-snapshotter/estargz"
	nativeconverter "github.com/containerd/stargz-snapshotter/nativeconverter/estargz"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// convert writes the form into the layout, whose blobs are where containerd's
// content store has them.
func convert(ctx context.Context, layout, files string) error {
	var index ocispec.Index
	text, err := os.ReadFile(filepath.Join(layout, ocispec.ImageIndexFile))
	if err == nil {
		err = json.Unmarshal(text, &index)
	}
	if err != nil || len(index.Manifests) == 0 {
		return fmt.Errorf("read layout of %d images: %w", len(index.Manifests), err)
	}
	store, err := local.NewLabeledStore(layout, &labels{of: map[digest.Digest]map[string]string{}})
	if err != nil {
		return err
	}
	image := index.Manifests[0]
	manifest, err := images.Manifest(ctx, store, image, platforms.All)
	if err != nil {
		return fmt.Errorf("read manifest: %w", err)
	}
	opts := map[digest.Digest][]estargz.Option{}
	if files != "" {
		list, err := os.ReadFile(files)
		if err != nil {
			return err
		}
		first := strings.Split(strings.TrimSpace(string(list)), "\n")
		for _, layer := range manifest.Layers {
			// A file is in one layer and missing in all others. Layers are converted at
			// the same time, so each has its own list of those.
			opts[layer.Digest] = []estargz.Option{estargz.WithPrioritizedFiles(first), estargz.WithAllowPrioritizeNotFound(new([]string))}
		}
	}
	convertLayer := nativeconverter.LayerConvertWithLayerAndCommonOptsFunc(opts)
	form, err := converter.DefaultIndexConvertFunc(convertLayer, true, platforms.All)(ctx, store, image)
	if err != nil {
		return fmt.Errorf("convert %s: %w", image.Digest, err)
	}
	return json.NewEncoder(os.Stdout).Encode(form)
}

// labels keeps what the converter notes of blobs while it runs.
type labels struct {
	mu sync.Mutex
	of map[digest.Digest]map[string]string
}

// Get implements local.LabelStore.
func (l *labels) Get(d digest.Digest) (map[string]string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.of[d]), nil
}

// Set implements local.LabelStore.
func (l *labels) Set(d digest.Digest, all map[string]string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.of[d] = maps.Clone(all)
	return nil
}

// Update implements local.LabelStore.
func (l *labels) Update(d digest.Digest, some map[string]string) (map[string]string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.of[d] == nil {
		l.of[d] = map[string]string{}
	}
	for key, value := range some {
		if value == "" {
			delete(l.of[d], key)
			continue
		}
		l.of[d][key] = value
	}
	return maps.Clone(l.of[d]), nil
}

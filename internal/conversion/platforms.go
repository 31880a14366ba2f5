package conversion

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
)

// imagesOf returns the manifests to convert: the root itself, or the Linux
// entries of an index, also of nested ones, that match wanted. left are the other
// entries.
func imagesOf(ctx context.Context, origin content.Fetcher, root ocispec.Descriptor, wanted []string) (images, left []ocispec.Descriptor, err error) {
	if !isIndex(root.MediaType) {
		return []ocispec.Descriptor{root}, nil, nil
	}
	matcher, err := matcherOf(wanted)
	if err != nil {
		return nil, nil, err
	}
	all, err := walk(ctx, origin, root, 0)
	if err != nil {
		return nil, nil, err
	}
	for _, entry := range all {
		// An artifact, such as a SOCI index, may state a platform too.
		if entry.ArtifactType == "" && entry.Platform != nil && entry.Platform.OS == "linux" && matcher.Match(*entry.Platform) {
			images = append(images, entry)
		} else {
			left = append(left, entry)
		}
	}
	if len(images) == 0 {
		return nil, nil, fmt.Errorf("index %s has no Linux image that matches %v", root.Digest, wanted)
	}
	return images, left, nil
}

// maxNesting bounds indexes within indexes.
const maxNesting = 4

// walk returns the entries of an index, those of nested ones in their place.
func walk(ctx context.Context, origin content.Fetcher, index ocispec.Descriptor, depth int) ([]ocispec.Descriptor, error) {
	if depth == maxNesting {
		return nil, fmt.Errorf("indexes nested more than %d deep", maxNesting)
	}
	data, err := content.FetchAll(ctx, origin, index)
	if err != nil {
		return nil, err
	}
	var parsed ocispec.Index
	if err := json.Unmarshal(data, &parsed); err != nil {
		return nil, fmt.Errorf("index %s: %w", index.Digest, err)
	}
	var entries []ocispec.Descriptor
	for _, entry := range parsed.Manifests {
		if !isIndex(entry.MediaType) {
			entries = append(entries, entry)
			continue
		}
		nested, err := walk(ctx, origin, entry, depth+1)
		if err != nil {
			return nil, err
		}
		entries = append(entries, nested...)
	}
	return entries, nil
}

func matcherOf(wanted []string) (platforms.Matcher, error) {
	if len(wanted) == 0 {
		return platforms.All, nil
	}
	parsed, err := platforms.ParseAll(wanted)
	if err != nil {
		return nil, fmt.Errorf("platform: %w", err)
	}
	return platforms.Any(parsed...), nil
}

func isIndex(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageIndex || mediaType == "application/vnd.docker.distribution.manifest.list.v2+json"
}

func platformName(image ocispec.Descriptor) string {
	if image.Platform == nil {
		return "its platform"
	}
	return platforms.Format(*image.Platform)
}

// plain is the descriptor as a subject names it: type, digest and size only.
func plain(d ocispec.Descriptor) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}
}

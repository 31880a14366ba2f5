package source

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"

	"github.com/referee-cri/referee/internal/reason"
)

// AnnotationOverlaybd marks a layer that is an overlaybd layer already; its value is
// the digest of the layer's blob (accelerated-container-image).
const AnnotationOverlaybd = "containerd.io/snapshot/overlaybd/blob-digest"

// Media types that the OCI module does not name, or no longer likes to.
const (
	dockerManifest      = "application/vnd.docker.distribution.manifest.v2+json"
	dockerLayer         = "application/vnd.docker.image.rootfs.diff.tar"
	dockerLayerGzip     = "application/vnd.docker.image.rootfs.diff.tar.gzip"
	dockerLayerZstd     = "application/vnd.docker.image.rootfs.diff.tar.zstd"
	dockerForeign       = "application/vnd.docker.image.rootfs.foreign.diff.tar"
	dockerForeignGzip   = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
	nonDistributable    = "application/vnd.oci.image.layer.nondistributable.v1.tar"
	nonDistributableGz  = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
	nonDistributableZst = "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd"
)

const (
	maxDocument = 8 << 20 // bytes of a manifest or a config
	maxLayers   = 255     // of a stack that every overlaybd reader can open
)

// Image is one platform's image as it is found.
type Image struct {
	Descriptor ocispec.Descriptor // of the manifest
	Manifest   ocispec.Manifest
	Config     []byte
	Platform   ocispec.Platform
	DiffIDs    []digest.Digest // as many as the manifest has layers, bottom first
	ChainIDs   []digest.Digest

	fetcher content.Fetcher
}

// Read fetches manifest and config of an image and checks them against their
// digests and each other. Errors that blame the image carry a reason code.
func Read(ctx context.Context, fetcher content.Fetcher, desc ocispec.Descriptor) (*Image, error) {
	if desc.MediaType != ocispec.MediaTypeImageManifest && desc.MediaType != dockerManifest {
		return nil, reason.Errorf(reason.ArtifactInvalid, "%s is not an image manifest but %q", desc.Digest, desc.MediaType)
	}
	s := &Image{Descriptor: desc, fetcher: fetcher}
	raw, err := fetchDocument(ctx, fetcher, desc)
	if err != nil {
		return nil, fmt.Errorf("fetch manifest %s: %w", desc.Digest, err)
	}
	if err := json.Unmarshal(raw, &s.Manifest); err != nil {
		return nil, reason.Errorf(reason.ArtifactInvalid, "parse manifest %s: %w", desc.Digest, err)
	}
	if s.Config, err = fetchDocument(ctx, fetcher, s.Manifest.Config); err != nil {
		return nil, fmt.Errorf("fetch config %s: %w", s.Manifest.Config.Digest, err)
	}
	var config ocispec.Image
	if err := json.Unmarshal(s.Config, &config); err != nil {
		return nil, reason.Errorf(reason.ArtifactInvalid, "parse config %s: %w", s.Manifest.Config.Digest, err)
	}
	s.DiffIDs, s.Platform = config.RootFS.DiffIDs, config.Platform
	if err := s.check(); err != nil {
		return nil, err
	}
	s.ChainIDs = identity.ChainIDs(slices.Clone(s.DiffIDs))
	return s, nil
}

// fetchDocument fetches content that is kept in memory and checks its digest.
func fetchDocument(ctx context.Context, fetcher content.Fetcher, desc ocispec.Descriptor) ([]byte, error) {
	if desc.Size > maxDocument {
		return nil, reason.Errorf(reason.ArtifactInvalid, "%d bytes, more than %d", desc.Size, maxDocument)
	}
	return content.FetchAll(ctx, fetcher, desc)
}

func (s *Image) check() error {
	layers := s.Manifest.Layers
	switch {
	case len(layers) == 0:
		return reason.Errorf(reason.ArtifactInvalid, "image has no layers")
	case len(layers) > maxLayers:
		return reason.Errorf(reason.ArtifactInvalid, "image has %d layers, more than %d", len(layers), maxLayers)
	case len(layers) != len(s.DiffIDs):
		return reason.Errorf(reason.LayerMismatch, "manifest has %d layers, config %d diff IDs", len(layers), len(s.DiffIDs))
	}
	for i, layer := range layers {
		if err := s.DiffIDs[i].Validate(); err != nil {
			return reason.Errorf(reason.ArtifactInvalid, "diff ID of layer %d: %w", i, err)
		}
		if !isLayer(layer.MediaType) {
			return reason.Errorf(reason.ArtifactInvalid, "layer %d: unknown media type %q", i, layer.MediaType)
		}
		if _, ok := layer.Annotations[AnnotationOverlaybd]; ok {
			return reason.Errorf(reason.ArtifactInvalid, "layer %d is an overlaybd layer already", i)
		}
	}
	return nil
}

func isLayer(mediaType string) bool {
	switch mediaType {
	case ocispec.MediaTypeImageLayer, ocispec.MediaTypeImageLayerGzip, ocispec.MediaTypeImageLayerZstd,
		dockerLayer, dockerLayerGzip, dockerLayerZstd, dockerForeign, dockerForeignGzip,
		nonDistributable, nonDistributableGz, nonDistributableZst:
		return true
	}
	return false
}

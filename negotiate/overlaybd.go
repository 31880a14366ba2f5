package negotiate

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/internal/reason"
)

// Artifact types of the overlaybd family.
const (
	artifactTypeNative = "application/vnd.containerd.overlaybd.native.v1+json" // accelerated-container-image, `convertor --referrer`
	artifactTypeAzure  = "application/vnd.azure.artifact.streaming.v1"         // Azure Container Registry, "artifact streaming"
	artifactTypeDADI   = "dadi.image.v1"                                       // in ORAS artifact manifests
)

// Annotations on layer descriptors of converted images.
const (
	annotationBlobDigest   = "containerd.io/snapshot/overlaybd/blob-digest"
	annotationBlobSize     = "containerd.io/snapshot/overlaybd/blob-size"
	annotationAcceleration = "containerd.io/snapshot/overlaybd/acceleration-layer"
)

// overlaybd recognises native overlaybd images: converted manifests, what Azure
// makes, and the ORAS artifacts from before OCI 1.1.
type overlaybd struct{}

var _ Recogniser = overlaybd{}

func (overlaybd) Format() string { return "overlaybd" }

func (overlaybd) ArtifactTypes() []string {
	return []string{artifactTypeNative, artifactTypeAzure, artifactTypeDADI}
}

func (overlaybd) LegacyTypes() []string { return []string{artifactTypeDADI} }

// Recognise accepts the three artifact types, and image manifests without a
// telling type whose every layer carries overlaybd's annotations.
func (o overlaybd) Recognise(ctx context.Context, a Artifact) (*Candidate, error) {
	config, layers := a.Config, a.Files
	switch a.ArtifactType {
	case artifactTypeNative:
	case artifactTypeAzure:
		if err := checkStreaming(a); err != nil {
			return nil, err
		}
	case artifactTypeDADI:
		inner, err := o.unwrap(ctx, a)
		if err != nil {
			return nil, err
		}
		config, layers = inner.Config, inner.Files
	default:
		if !slices.Contains(namelessTypes, a.ArtifactType) || !annotatedNative(layers) {
			return nil, ErrNotMine
		}
	}
	c := &Candidate{Format: o.Format(), Config: config, Foreign: true}
	if err := c.takeLayers(layers, checkLayer); err != nil {
		return nil, reason.Wrap(reason.ArtifactInvalid, err)
	}
	return c, nil
}

// unwrap returns config and layers of a dadi.image.v1 artifact: its first blob is
// the config and the others the layers; in an older variant its only blob is the
// converted image's manifest.
func (overlaybd) unwrap(ctx context.Context, a Artifact) (*Manifest, error) {
	if !isArtifact(a.Descriptor.MediaType) {
		return a.Manifest, nil // the type on an OCI image manifest: config and layers are where they belong
	}
	if len(a.Files) == 1 && isImage(a.Files[0].MediaType) {
		inner, err := a.Fetch(ctx, a.Files[0])
		if err != nil {
			return nil, fmt.Errorf("fetch converted manifest: %w", err)
		}
		return inner, nil
	}
	if len(a.Files) < 2 || !isConfig(a.Files[0].MediaType) {
		return nil, reason.Errorf(reason.ArtifactInvalid, "its first blob is not an image config")
	}
	return &Manifest{Config: &a.Files[0], Files: a.Files[1:]}, nil
}

// takeLayers splits off the acceleration layer, which stands last and becomes a
// table, and has check
// look at each of the others.
func (c *Candidate) takeLayers(layers []ocispec.Descriptor, check func(ocispec.Descriptor) error) error {
	if n := len(layers); n > 0 && layers[n-1].Annotations[annotationAcceleration] == "yes" {
		trace := layers[n-1]
		if err := checkBlobAnnotations(trace); err != nil {
			return fmt.Errorf("acceleration layer: %w", err)
		}
		c.Tables, layers = []ocispec.Descriptor{trace}, layers[:n-1]
	}
	if len(layers) == 0 {
		return fmt.Errorf("it has no layers")
	}
	for i, d := range layers {
		if err := check(d); err != nil {
			return fmt.Errorf("layer %d: %w", i, err)
		}
	}
	c.Layers = slices.Clone(layers)
	return nil
}

func checkLayer(d ocispec.Descriptor) error {
	switch {
	case d.Annotations[annotationAcceleration] == "yes":
		return fmt.Errorf("an acceleration layer must be the last one")
	case turboTarget(d) != "":
		return fmt.Errorf("it is a TurboOCI layer among native ones")
	case strings.HasSuffix(d.MediaType, "gzip") || strings.HasSuffix(d.MediaType, "zstd"):
		return fmt.Errorf("media type %s is compressed, so it cannot be read at random", clip(d.MediaType))
	case d.Size == 0:
		return fmt.Errorf("size is 0")
	}
	return checkBlobAnnotations(d)
}

// checkBlobAnnotations requires that the annotations which tell other readers
// what to fetch, where present, tell what the descriptor tells.
func checkBlobAnnotations(d ocispec.Descriptor) error {
	if want, ok := d.Annotations[annotationBlobDigest]; ok && want != d.Digest.String() {
		return fmt.Errorf("annotation blob-digest is %s, the descriptor's is %s", clip(want), d.Digest)
	}
	if want, ok := d.Annotations[annotationBlobSize]; ok {
		if size, err := strconv.ParseInt(want, 10, 64); err != nil || size != d.Size {
			return fmt.Errorf("annotation blob-size is %s, the descriptor's is %d", clip(want), d.Size)
		}
	}
	return nil
}

// annotatedNative tells whether every layer is marked as a native overlaybd layer.
func annotatedNative(layers []ocispec.Descriptor) bool {
	return len(layers) > 0 && !slices.ContainsFunc(layers, func(d ocispec.Descriptor) bool {
		return d.Annotations[annotationBlobDigest] == "" || turboTarget(d) != ""
	})
}

// checkStreaming reads the annotations of Azure's manifests: the artifact type is
// shared by whatever payload that service may come to use.
func checkStreaming(a Artifact) error {
	if format := a.Annotations["streaming.format"]; format != "overlaybd" {
		return reason.Errorf(reason.NoMatch, "its streaming.format is %q, not overlaybd", clip(format))
	}
	if version, ok := a.Annotations["streaming.version"]; ok && version != "v1" {
		return reason.Errorf(reason.NoMatch, "its streaming.version is %q, not v1", clip(version))
	}
	made := ocispec.Platform{OS: a.Annotations["streaming.platform.os"], Architecture: a.Annotations["streaming.platform.arch"]}
	if made.OS == "" && made.Architecture == "" {
		return nil // bound by its subject alone, as every other artifact
	}
	if !platforms.Only(a.Platform).Match(platforms.Normalize(made)) {
		return reason.Errorf(reason.OtherPlatform, "it is for %s/%s", clip(made.OS), clip(made.Architecture))
	}
	return nil
}

func isConfig(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageConfig || mediaType == "application/vnd.docker.container.image.v1+json"
}

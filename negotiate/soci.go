package negotiate

import (
	"context"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/internal/reason"
)

// Types of SOCI indexes: config media types of their manifests. The second
// version is also the artifact type of an entry in the image's index.
const (
	artifactTypeSOCIv1 = "application/vnd.amazon.soci.index.v1+json"
	artifactTypeSOCIv2 = "application/vnd.amazon.soci.index.v2+json"
)

// mediaTypeSOCIPrefetch is that of a list of spans of a layer that a start reads.
const mediaTypeSOCIPrefetch = "application/vnd.amazon.soci.prefetch.v1+json"

// Annotations of SOCI.
const (
	annotationSOCILayer    = "com.amazon.soci.image-layer-digest"    // on a table: the layer that it is of
	annotationSOCIIndex    = "com.amazon.soci.index-digest"          // on the image's manifest
	annotationSOCIManifest = "com.amazon.soci.image-manifest-digest" // on the SOCI index's entry
)

// soci recognises tables of contents over the image's own gzip layers, with
// points from which each can be decompressed. They may be missing for small
// layers, which are then read whole. The first version is attached to the image; the
// second stands in its index, image and tables naming each other.
type soci struct{}

var (
	_ InPlaceRecogniser = soci{}
	_ Completer         = soci{}
)

func (soci) Format() string { return "soci" }

func (soci) ArtifactTypes() []string { return []string{artifactTypeSOCIv1} }

func (soci) LegacyTypes() []string { return nil }

// Recognise accepts an index of the first version. The candidate's layers are the
// image's.
func (s soci) Recognise(_ context.Context, a Artifact) (*Candidate, error) {
	if a.ArtifactType != artifactTypeSOCIv1 {
		return nil, ErrNotMine
	}
	c := &Candidate{Format: s.Format(), Layers: slices.Clone(a.Image), Fit: FitLayers}
	if err := c.takeTables(a.Files); err != nil {
		return nil, err
	}
	return c, nil
}

// Complete reads the tables of an index of the second version out of its manifest.
func (soci) Complete(ctx context.Context, c *Candidate, _ Original, fetch func(context.Context, ocispec.Descriptor) (*Manifest, error)) error {
	if c.ArtifactType != artifactTypeSOCIv2 {
		return nil
	}
	m, err := fetch(ctx, c.Artifact)
	if err != nil {
		return fmt.Errorf("fetch SOCI index %s: %w", c.Artifact.Digest, err)
	}
	if m.ArtifactType != artifactTypeSOCIv2 {
		return reason.Errorf(reason.ArtifactInvalid, "SOCI index %s is of type %q", c.Artifact.Digest, clip(m.ArtifactType))
	}
	c.Artifact.Size = m.Descriptor.Size
	return c.takeTables(m.Files)
}

// takeTables makes files the tables of c, whose layers are the image's, and refuses
// tables of other layers and too many layers without one.
func (c *Candidate) takeTables(files []ocispec.Descriptor) error {
	tabled := map[digest.Digest]bool{}
	for i, d := range files {
		of := digest.Digest(d.Annotations[annotationSOCILayer])
		if err := of.Validate(); err != nil {
			return reason.Errorf(reason.ArtifactInvalid, "table %d does not say which layer it is of: %w", i, err)
		}
		if !slices.ContainsFunc(c.Layers, func(layer ocispec.Descriptor) bool { return layer.Digest == of }) {
			return reason.Errorf(reason.LayerMismatch, "table %d is of layer %s, which the image does not have", i, of)
		}
		if d.MediaType != mediaTypeSOCIPrefetch {
			tabled[of] = true
		}
	}
	if len(tabled) == 0 {
		return reason.Errorf(reason.ArtifactInvalid, "it has no tables")
	}
	n, size := 0, int64(0)
	for _, layer := range c.Layers {
		if !tabled[layer.Digest] {
			n, size = n+1, size+layer.Size
		}
	}
	if size > maxPlain {
		return reason.Errorf(reason.NoMatch, "%d of the image's %d layers have no table, and %d bytes would have to be fetched whole, more than %d", n, len(c.Layers), size, maxPlain)
	}
	c.Tables = slices.Clone(files)
	return nil
}

// RecogniseInPlace accepts an index of the second version where image and entry
// name each other. The candidate's artifact is the SOCI index; its size is 0
// where the reference names the manifest alone, and so nothing that states it.
func (s soci) RecogniseInPlace(o Original) (*Candidate, error) {
	entry, err := sociEntry(o)
	if err != nil {
		return nil, err
	}
	c := o.whole()
	c.Format, c.Artifact, c.ArtifactType, c.Config = s.Format(), entry, artifactTypeSOCIv2, nil
	return c, nil
}

func sociEntry(o Original) (ocispec.Descriptor, error) {
	named := digest.Digest(o.Manifest.Annotations[annotationSOCIIndex])
	if named != "" {
		if err := named.Validate(); err != nil {
			return ocispec.Descriptor{}, reason.Errorf(reason.ArtifactInvalid, "annotation index-digest: %w", err)
		}
	}
	if o.Index == nil {
		if named == "" {
			return ocispec.Descriptor{}, ErrNotMine
		}
		return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, ArtifactType: artifactTypeSOCIv2, Digest: named}, nil
	}
	var stray error
	for _, d := range o.Index.Manifests {
		of := d.Annotations[annotationSOCIManifest]
		mine := of == o.Manifest.Descriptor.Digest.String()
		switch {
		case d.ArtifactType != artifactTypeSOCIv2 || !mine && (named == "" || d.Digest != named):
		case mine && d.Digest == named:
			return d, nil
		case mine:
			stray = fmt.Errorf("the index says that SOCI index %s is of this image, which names %q", d.Digest, clip(named.String()))
		default:
			stray = fmt.Errorf("the image names SOCI index %s, which the index says is of %q", d.Digest, clip(of))
		}
	}
	switch {
	case stray == nil && named == "":
		return ocispec.Descriptor{}, ErrNotMine
	case stray == nil:
		stray = fmt.Errorf("the image names SOCI index %s, which its index does not list", named)
	}
	return ocispec.Descriptor{}, reason.Wrap(reason.ArtifactInvalid, stray)
}

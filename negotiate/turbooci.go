package negotiate

import (
	"context"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/internal/reason"
)

// artifactTypeTurbo is what accelerated-container-image writes (`convertor --turboOCI --referrer`).
const artifactTypeTurbo = "application/vnd.containerd.overlaybd.turbo.v1+json"

// Annotations on TurboOCI's layers: the layer of the image that holds the data.
const (
	annotationTurboTarget = "containerd.io/snapshot/overlaybd/turbo-oci/target-digest"
	annotationFastTarget  = "containerd.io/snapshot/overlaybd/fastoci/target-digest" // its earlier name
)

// turboOCI recognises overlaybd's other form: each layer is a small archive of
// file-system metadata, whose data lies in a layer of the image itself. So the
// candidate's layers are the image's, and the archives are its tables.
type turboOCI struct{}

var _ Recogniser = turboOCI{}

func (turboOCI) Format() string { return "turbooci" }

func (turboOCI) ArtifactTypes() []string { return []string{artifactTypeTurbo} }

func (turboOCI) LegacyTypes() []string { return nil }

// Recognise accepts its artifact type, and image manifests without a telling
// type that have a layer with a target. Layers without one are native overlaybd
// layers, a base layer at the bottom for instance. Every target must be a layer
// of this very image: the form may bring metadata, but no data from elsewhere.
func (t turboOCI) Recognise(_ context.Context, a Artifact) (*Candidate, error) {
	targets := 0
	for _, d := range a.Files {
		if turboTarget(d) != "" {
			targets++
		}
	}
	switch {
	case a.ArtifactType == artifactTypeTurbo && targets == 0:
		return nil, reason.Errorf(reason.ArtifactInvalid, "none of its layers names the layer that it is of")
	case a.ArtifactType == artifactTypeTurbo:
	case !slices.Contains(namelessTypes, a.ArtifactType) || targets == 0:
		return nil, ErrNotMine
	}
	c := &Candidate{Format: t.Format(), Config: a.Config, Foreign: true}
	if err := c.takeLayers(a.Files, func(d ocispec.Descriptor) error { return checkTurboLayer(d, a.Image) }); err != nil {
		return nil, reason.Wrap(reason.ArtifactInvalid, err)
	}
	c.stacked = len(c.Layers)
	c.Layers, c.Tables = slices.Clone(a.Image), c.Layers
	return c, nil
}

func checkTurboLayer(d ocispec.Descriptor, image []ocispec.Descriptor) error {
	target := turboTarget(d)
	if target == "" {
		return checkLayer(d)
	}
	if err := target.Validate(); err != nil {
		return fmt.Errorf("target-digest %q: %w", clip(target.String()), err)
	}
	if !slices.ContainsFunc(image, func(of ocispec.Descriptor) bool { return of.Digest == target }) {
		return reason.Errorf(reason.LayerMismatch, "it is of layer %s, which the image does not have", target)
	}
	return checkBlobAnnotations(d)
}

// turboTarget is the layer that d is the metadata of, "" if it is none.
func turboTarget(d ocispec.Descriptor) digest.Digest {
	if target := d.Annotations[annotationTurboTarget]; target != "" {
		return digest.Digest(target)
	}
	return digest.Digest(d.Annotations[annotationFastTarget])
}

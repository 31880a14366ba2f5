package negotiate

import (
	"context"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/internal/reason"
)

const (
	// mediaTypeErofsLayer is a layer that is an EROFS image (containerd 2.1);
	// suffixes tell how it is compressed.
	mediaTypeErofsLayer = "application/vnd.erofs.layer.v1"
	// featureErofs marks an image of such layers in an index: "linux(+erofs)/amd64".
	featureErofs = "erofs"
)

// erofs recognises images whose layers are EROFS images: attached, as another
// entry of the image's index, or the image itself.
type erofs struct{}

var (
	_ InPlaceRecogniser = erofs{}
	_ Completer         = erofs{}
)

func (erofs) Format() string { return "erofs" }

// ArtifactTypes holds the layers' media type, for artifacts that repeat it: no
// tool has a type of its own for the whole.
func (erofs) ArtifactTypes() []string { return []string{mediaTypeErofsLayer} }

func (erofs) LegacyTypes() []string { return nil }

// Recognise accepts its type, and manifests without a telling type, whose every
// layer is an EROFS image.
func (e erofs) Recognise(_ context.Context, a Artifact) (*Candidate, error) {
	named := a.ArtifactType == mediaTypeErofsLayer
	if !named && !slices.Contains(namelessTypes, a.ArtifactType) {
		return nil, ErrNotMine
	}
	if all := !slices.ContainsFunc(a.Files, func(d ocispec.Descriptor) bool { return !isErofsLayer(d) }); !all || len(a.Files) == 0 {
		if named {
			return nil, reason.Errorf(reason.ArtifactInvalid, "not all of its layers are EROFS images")
		}
		return nil, ErrNotMine
	}
	return &Candidate{Format: e.Format(), Config: a.Config, Layers: slices.Clone(a.Files), Foreign: true}, nil
}

// RecogniseInPlace prefers the image itself, all of whose layers must be EROFS
// images, to another entry of its index, whose layers are left to Complete.
func (e erofs) RecogniseInPlace(o Original) (*Candidate, error) {
	err := o.countLayers("EROFS images", isErofsLayer)
	if err == nil {
		c := o.whole()
		c.Format, c.Foreign = e.Format(), true
		return c, nil
	}
	d, found := o.alternative(func(d ocispec.Descriptor) bool { return slices.Contains(d.Platform.OSFeatures, featureErofs) })
	if !found {
		return nil, err
	}
	c := o.entry(d)
	c.Format, c.Foreign = e.Format(), true
	return c, nil
}

// Complete reads the manifest of an entry of the index. It must be of EROFS layers,
// as many as the image has, or one for all of them: converters keep their number.
func (erofs) Complete(ctx context.Context, c *Candidate, o Original, fetch func(context.Context, ocispec.Descriptor) (*Manifest, error)) error {
	if len(c.Layers) > 0 {
		return nil
	}
	m, err := fetch(ctx, c.Artifact)
	if err != nil {
		return err
	}
	if i := slices.IndexFunc(m.Files, func(d ocispec.Descriptor) bool { return !isErofsLayer(d) }); i >= 0 {
		return reason.Errorf(reason.ArtifactInvalid, "layer %d of the index's EROFS entry is a %s", i, clip(m.Files[i].MediaType))
	}
	switch have, want := len(m.Files), len(o.Manifest.Files); have {
	case want:
		c.Fit = FitLayers
	case 1:
		c.Fit = FitFlat
	default:
		return reason.Errorf(reason.LayerMismatch, "the index's EROFS entry has %d layers, the image has %d", have, want)
	}
	c.Layers, c.Config, c.Created = slices.Clone(m.Files), m.Config, created(m.Annotations)
	return nil
}

func isErofsLayer(d ocispec.Descriptor) bool {
	bare, _, _ := strings.Cut(d.MediaType, "+")
	return bare == mediaTypeErofsLayer
}

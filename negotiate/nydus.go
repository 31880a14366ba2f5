package negotiate

import (
	"context"
	"slices"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/internal/reason"
)

// Artifact types of Nydus.
const (
	artifactTypeNydus       = "application/vnd.nydus.image.manifest.v1+json" // an entry of an index, or what is attached as such
	artifactTypeNydusConfig = "application/vnd.nydus.image.config.v1+json"   // the config of such an entry
	artifactTypeNydusORAS   = "application/vnd.cncf.nydus.v1"                // in ORAS artifact manifests
)

// Media types of blobs.
const (
	mediaTypeNydusBlob       = "application/vnd.oci.image.layer.nydus.blob.v1"
	mediaTypeNydusORASBoot   = "application/vnd.cncf.nydus.bootstrap.v1.tar+gzip"
	mediaTypeNydusORASBlob   = "application/vnd.cncf.nydus.blob.v1"
	annotationNydusBlob      = "containerd.io/snapshot/nydus-blob"
	annotationNydusBoot      = "containerd.io/snapshot/nydus-bootstrap" // its presence counts, not its value
	annotationNydusVersion   = "containerd.io/snapshot/nydus-fs-version"
	annotationNydusReference = "containerd.io/snapshot/nydus-ref" // of a blob whose data is in this original layer
	annotationNydusEncrypted = "containerd.io/snapshot/nydus-encrypted-blob"
	featureNydus             = "nydus.remoteimage.v1"
)

// nydus recognises RAFS images: data blobs, and the metadata of the whole image
// (the bootstrap) as last layer. The bootstrap is an EROFS image. Where data stays
// in the image's own layers, these are the candidate's tables.
type nydus struct{}

var (
	_ InPlaceRecogniser = nydus{}
	_ Completer         = nydus{}
)

func (nydus) Format() string { return "nydus" }

func (nydus) ArtifactTypes() []string {
	return []string{artifactTypeNydus, artifactTypeNydusConfig, artifactTypeNydusORAS}
}

func (nydus) LegacyTypes() []string { return []string{artifactTypeNydusORAS} }

// Recognise goes by the last layer, as nydus-snapshotter does: its own referrers
// have no telling type. The candidate's layers end with the bootstrap.
func (n nydus) Recognise(_ context.Context, a Artifact) (*Candidate, error) {
	layers := a.Files
	switch {
	case a.ArtifactType == artifactTypeNydusORAS:
		layers = bootstrapLast(layers)
	case !slices.Contains(n.ArtifactTypes(), a.ArtifactType) && (!slices.Contains(namelessTypes, a.ArtifactType) || !endsWithBootstrap(layers)):
		return nil, ErrNotMine
	}
	if err := checkNydus(layers); err != nil {
		return nil, err
	}
	originals, err := originalsOf(layers, a.Image)
	if err != nil {
		return nil, err
	}
	return &Candidate{
		Format: n.Format(), Config: a.Config, Layers: slices.Clone(layers), Tables: originals, Fit: FitFlat, Foreign: true,
	}, nil
}

// originalsOf returns the layers of the image that blobs without data of their own
// point into (zran), each once. Every one must be a layer of this very image: the
// form may bring metadata, but no data from elsewhere.
func originalsOf(blobs, image []ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	var originals []ocispec.Descriptor
	for i, d := range blobs {
		target, ok := d.Annotations[annotationNydusReference]
		if !ok {
			continue
		}
		is := func(of ocispec.Descriptor) bool { return of.Digest.String() == target }
		n := slices.IndexFunc(image, is)
		switch {
		case n < 0:
			return nil, reason.Errorf(reason.LayerMismatch, "blob %d is of layer %s, which the image does not have", i, clip(target))
		case !slices.ContainsFunc(originals, is):
			originals = append(originals, image[n])
		}
	}
	return originals, nil
}

// checkNydus refuses layers that are no blobs with a bootstrap behind them, or such
// as are not read here.
func checkNydus(layers []ocispec.Descriptor) error {
	if !endsWithBootstrap(layers) {
		return reason.Errorf(reason.ArtifactInvalid, "its last layer is no Nydus bootstrap")
	}
	boot, blobs := layers[len(layers)-1], layers[:len(layers)-1]
	if version, ok := boot.Annotations[annotationNydusVersion]; ok && version != "6" {
		return reason.Errorf(reason.NoMatch, "it is Nydus RAFS version %s, not 6", clip(version))
	}
	if len(blobs) == 0 {
		return reason.Errorf(reason.NoMatch, "its data is not in the registry")
	}
	for i, d := range blobs {
		switch {
		case d.Annotations[annotationNydusEncrypted] != "":
			return reason.Errorf(reason.NoMatch, "blob %d is encrypted", i)
		case !isNydusBlob(d):
			return reason.Errorf(reason.ArtifactInvalid, "layer %d is a %s, not a Nydus blob", i, clip(d.MediaType))
		}
	}
	return nil
}

// RecogniseInPlace looks for another entry of the image's index. What its
// manifest holds is left to Complete.
func (n nydus) RecogniseInPlace(o Original) (*Candidate, error) {
	d, found := o.alternative(func(d ocispec.Descriptor) bool {
		return d.ArtifactType == artifactTypeNydus || slices.Contains(d.Platform.OSFeatures, featureNydus)
	})
	if !found {
		return nil, ErrNotMine
	}
	c := o.entry(d)
	c.Format, c.Fit, c.Foreign = n.Format(), FitFlat, true
	return c, nil
}

// Complete reads the manifest of an entry of the index.
func (nydus) Complete(ctx context.Context, c *Candidate, o Original, fetch func(context.Context, ocispec.Descriptor) (*Manifest, error)) error {
	if len(c.Layers) > 0 {
		return nil
	}
	m, err := fetch(ctx, c.Artifact)
	if err != nil {
		return err
	}
	if err := checkNydus(m.Files); err != nil {
		return err
	}
	if c.Tables, err = originalsOf(m.Files, o.Manifest.Files); err != nil {
		return err
	}
	c.Layers, c.Config, c.Created = slices.Clone(m.Files), m.Config, created(m.Annotations)
	return nil
}

func endsWithBootstrap(layers []ocispec.Descriptor) bool {
	return len(layers) > 0 && isNydusBootstrap(layers[len(layers)-1])
}

func isNydusBootstrap(d ocispec.Descriptor) bool {
	_, marked := d.Annotations[annotationNydusBoot]
	return marked || d.MediaType == mediaTypeNydusORASBoot
}

func isNydusBlob(d ocispec.Descriptor) bool {
	_, marked := d.Annotations[annotationNydusBlob]
	return marked || d.MediaType == mediaTypeNydusBlob || d.MediaType == mediaTypeNydusORASBlob
}

// bootstrapLast moves the bootstrap from the front, where ORAS artifacts have it.
func bootstrapLast(blobs []ocispec.Descriptor) []ocispec.Descriptor {
	if len(blobs) == 0 || !isNydusBootstrap(blobs[0]) {
		return blobs
	}
	return append(slices.Clone(blobs[1:]), blobs[0])
}

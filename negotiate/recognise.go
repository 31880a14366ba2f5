package negotiate

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/internal/reason"
)

// Recogniser knows the manifests of one family of accelerated images.
//
// Implementations are stateless and safe for concurrent use.
type Recogniser interface {
	// Format is the family's name: "overlaybd".
	Format() string
	// ArtifactTypes are the artifact types that its artifacts carry, the
	// preferred one first.
	ArtifactTypes() []string
	// LegacyTypes are those among them that live in ORAS artifact manifests.
	LegacyTypes() []string
	// Recognise reads an artifact into a candidate: format, layers, prefetch and
	// config. It returns ErrNotMine for an artifact of another family, and an
	// error with a reason.Code for one of its own that cannot be used.
	Recognise(ctx context.Context, a Artifact) (*Candidate, error)
}

// Artifact is what a recogniser looks at.
type Artifact struct {
	*Manifest
	Platform ocispec.Platform     // the platform wanted
	Image    []ocispec.Descriptor // layers of the image that it is attached to, bottom first
	// Fetch fetches a further manifest of the same repository, verified.
	Fetch func(context.Context, ocispec.Descriptor) (*Manifest, error)
}

// InPlaceRecogniser is what a Recogniser may also be: its family can stand in the
// image itself, where the image's own digest covers it and no request is needed
// to find it.
type InPlaceRecogniser interface {
	Recogniser
	// RecogniseInPlace returns the form of this family that o holds. It returns
	// ErrNotMine where there is none, and an error with a reason.Code for one that
	// cannot be used. Candidate.Artifact is the image's manifest, or the entry of
	// the index that is the form; layers may be left to whoever opens it, since
	// no request is made.
	RecogniseInPlace(o Original) (*Candidate, error)
}

// Completer is what a Recogniser may also be: what its forms hold is told by a
// further manifest, which is fetched only once a form is about to be chosen.
type Completer interface {
	Recogniser
	// Complete adds to c, a candidate of this family, the layers and tables that
	// it lacks, and may replace its artifact by a full descriptor of the same
	// digest. fetch fetches a manifest of the same repository, verified. An error
	// with a reason.Code says why the form cannot be used after all.
	Complete(ctx context.Context, c *Candidate, o Original, fetch func(context.Context, ocispec.Descriptor) (*Manifest, error)) error
}

// Original is the image as its registry serves it to everyone.
type Original struct {
	Index    *Manifest // nil where the reference names a manifest
	Manifest *Manifest // for this platform
	Platform ocispec.Platform
}

// ErrNotMine says that an artifact belongs to no form that a recogniser knows.
var ErrNotMine = errors.New("artifact of another kind")

// Recognisers returns those built in, the preferred first: ready block images
// before tables of contents, which a node has to work on before it can mount them.
func Recognisers() []Recogniser {
	return []Recogniser{overlaybd{}, turboOCI{}, erofs{}, nydus{}, disk{}, eStargz{}, zstdChunked{}, soci{}}
}

// alternative returns the entry of the image's index that is marked as another
// form of this platform's image, beside the manifest that was chosen.
//
// containerd passes such an entry over where its os.features are not the node's
// (containerd 2.1 and later) or where the ordinary image stands first.
func (o Original) alternative(marked func(ocispec.Descriptor) bool) (ocispec.Descriptor, bool) {
	if o.Index == nil {
		return ocispec.Descriptor{}, false
	}
	platform := o.Platform
	for _, d := range o.Index.Manifests {
		if d.Digest == o.Manifest.Descriptor.Digest && d.Platform != nil {
			platform = *d.Platform
			break
		}
	}
	platform.OSFeatures = nil
	same := platforms.OnlyStrict(platform)
	for _, d := range o.Index.Manifests {
		if d.Digest == o.Manifest.Descriptor.Digest || d.Platform == nil || !isImage(d.MediaType) || !marked(d) {
			continue
		}
		plain := *d.Platform
		plain.OSFeatures = nil
		if same.Match(plain) {
			return d, true
		}
	}
	return ocispec.Descriptor{}, false
}

// entry is the candidate that an alternative is: whole, and covered by the
// digest of the index alone: that of the image's own manifest does not cover it,
// and a signature of it would not say of which image it is a form.
func (o Original) entry(d ocispec.Descriptor) *Candidate {
	return &Candidate{Artifact: d, ArtifactType: d.ArtifactType, signable: []ocispec.Descriptor{}}
}

// countLayers tells how many layers are marked. A form in place needs all of
// them; none means that the image is of another kind.
func (o Original) countLayers(what string, marked func(ocispec.Descriptor) bool) error {
	found := 0
	for _, d := range o.Manifest.Files {
		if marked(d) {
			found++
		}
	}
	switch all := len(o.Manifest.Files); found {
	case 0:
		return ErrNotMine
	case all:
		return nil
	default:
		return reason.Errorf(reason.NoMatch, "%d of the image's %d layers are %s, and the others would have to be fetched whole", found, all, what)
	}
}

// maxPlain bounds the layers without a table in an image whose others have one, in
// bytes: a start waits for all of them. What opens the form has the same bound.
const maxPlain = 64 << 20

// mostLayers is countLayers for forms whose reader reads layers that are not marked
// to their end: these must be few and less than half of the image.
func (o Original) mostLayers(what string, marked func(ocispec.Descriptor) bool) error {
	err := o.countLayers(what, marked)
	if err == nil || errors.Is(err, ErrNotMine) {
		return err
	}
	var plain, all int64
	for _, d := range o.Manifest.Files {
		all += d.Size
		if !marked(d) {
			plain += d.Size
		}
	}
	if plain > maxPlain || plain > all/2 {
		return err
	}
	return nil
}

// whole is the candidate that the image's own manifest is.
func (o Original) whole() *Candidate {
	return &Candidate{
		Artifact: o.Manifest.Descriptor, ArtifactType: o.Manifest.ArtifactType, Created: created(o.Manifest.Annotations),
		Config: o.Manifest.Config, Layers: slices.Clone(o.Manifest.Files), Fit: FitLayers,
	}
}

// claim returns the recogniser of artifactType, nil if there is none, and the
// position of the type among all types of all recognisers.
func claim(recognisers []Recogniser, artifactType string) (claimant Recogniser, preference int) {
	for _, r := range recognisers {
		types := r.ArtifactTypes()
		if i := slices.Index(types, artifactType); i >= 0 {
			return r, preference + i
		}
		preference += len(types)
	}
	return nil, preference
}

// namelessTypes say nothing about what an artifact is: the manifest has to be looked at.
var namelessTypes = []string{
	"", ocispec.MediaTypeImageConfig, "application/vnd.docker.container.image.v1+json", ocispec.MediaTypeEmptyJSON,
}

// otherTypes are artifact types met in the wild that are no form of an image,
// with words for a person. Longer prefixes stand first.
var otherTypes = []struct{ prefix, what string }{
	{"application/vnd.cncf.notary.", "a Notation signature, not a form of the image"},
	{"application/vnd.dev.cosign.", "a cosign signature, not a form of the image"},
	{"application/vnd.dev.sigstore.bundle.", "a Sigstore bundle (signature or attestation), not a form of the image"},
	{"application/vnd.in-toto", "an attestation, not a form of the image"},
	{"application/spdx", "a software bill of materials, not a form of the image"},
	{"application/vnd.cyclonedx", "a software bill of materials, not a form of the image"},
	{"application/vnd.syft", "a software bill of materials, not a form of the image"},
	{"sbom/", "a software bill of materials, not a form of the image"},
	{"signature/", "a signature, not a form of the image"},
}

// describeOther says in words what an artifact type that nobody claims is.
func describeOther(artifactType string) string {
	for _, known := range otherTypes {
		if strings.HasPrefix(artifactType, known.prefix) {
			return "this is " + known.what
		}
	}
	if slices.Contains(namelessTypes, artifactType) {
		return "this artifact does not say what it is, and its layers are those of no form known here"
	}
	return "no form known here has the artifact type " + clip(artifactType)
}

// clip keeps foreign text short in messages.
func clip(s string) string {
	const limit = 128
	if len(s) > limit {
		return strings.ToValidUTF8(s[:limit], "") + "…"
	}
	return s
}

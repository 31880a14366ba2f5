package negotiate

import (
	"context"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/internal/reason"
)

// annotationTOCDigest is the digest of a layer's table of contents, uncompressed
// (stargz-snapshotter). The manifest that holds it vouches for the table so.
const annotationTOCDigest = "containerd.io/snapshot/stargz/toc.digest"

// eStargz recognises images whose gzip layers are seekable: each file in a
// member of its own, the table of contents at the end.
//
// A table may also live outside, in an image with "-esgztoc" after the tag. Such
// a layer carries the same annotation and differs in its footer alone, which
// nobody looks at here: whoever opens the layer finds out, and then asks for
// Negotiator.ExternalTables.
type eStargz struct{}

var _ InPlaceRecogniser = eStargz{}

func (eStargz) Format() string { return "estargz" }

func (eStargz) ArtifactTypes() []string { return nil }

func (eStargz) LegacyTypes() []string { return nil }

// Recognise never does: there is nothing to attach.
func (eStargz) Recognise(context.Context, Artifact) (*Candidate, error) { return nil, ErrNotMine }

// RecogniseInPlace demands a table for most of the image, since a volume is the
// whole image: a layer without one, of a base image for instance, has to be fetched
// to its end before anything can start.
func (e eStargz) RecogniseInPlace(o Original) (*Candidate, error) {
	if err := o.mostLayers("eStargz", isEStargz); err != nil {
		return nil, err
	}
	for i, d := range o.Manifest.Files {
		if !isEStargz(d) {
			continue
		}
		if err := digest.Digest(d.Annotations[annotationTOCDigest]).Validate(); err != nil {
			return nil, reason.Errorf(reason.ArtifactInvalid, "layer %d: toc.digest: %w", i, err)
		}
	}
	c := o.whole()
	c.Format = e.Format()
	return c, nil
}

// isEStargz tells eStargz from zstd:chunked, of which one dialect carries the
// same annotation.
func isEStargz(d ocispec.Descriptor) bool {
	_, found := d.Annotations[annotationTOCDigest]
	return found && !strings.HasSuffix(d.MediaType, "zstd")
}

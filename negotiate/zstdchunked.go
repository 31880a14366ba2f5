package negotiate

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/internal/reason"
)

// Prefixes of the annotations on layers, one for each dialect: what
// stargz-snapshotter, BuildKit and nerdctl write, and what containers/storage
// (Podman, Buildah, Skopeo) does.
var zstdChunkedPrefixes = [...]string{"io.containers.zstd-chunked.", "io.github.containers.zstd-chunked."}

// Annotations behind a prefix: the digest of the table of contents as it is
// stored, compressed, and "offset:length:length uncompressed:1" of it.
const (
	zstdManifestChecksum = "manifest-checksum"
	zstdManifestPosition = "manifest-position"
)

// maxTOCSize bounds a table of contents, uncompressed, in bytes; the format has
// no bound of its own.
const maxTOCSize = 512 << 20

// zstdChunked recognises images whose zstd layers are seekable.
type zstdChunked struct{}

var _ InPlaceRecogniser = zstdChunked{}

func (zstdChunked) Format() string { return "zstdchunked" }

func (zstdChunked) ArtifactTypes() []string { return nil }

func (zstdChunked) LegacyTypes() []string { return nil }

// Recognise never does: there is nothing to attach.
func (zstdChunked) Recognise(context.Context, Artifact) (*Candidate, error) { return nil, ErrNotMine }

// RecogniseInPlace demands a table for most of the image, for the same reason as
// eStargz does. Layers of both dialects may stand beside each other.
func (z zstdChunked) RecogniseInPlace(o Original) (*Candidate, error) {
	if err := o.mostLayers("zstd:chunked", func(d ocispec.Descriptor) bool { return zstdChunkedPrefix(d) != "" }); err != nil {
		return nil, err
	}
	for i, d := range o.Manifest.Files {
		if zstdChunkedPrefix(d) == "" {
			continue
		}
		if err := checkZstdChunked(d, zstdChunkedPrefix(d)); err != nil {
			return nil, reason.Errorf(reason.ArtifactInvalid, "layer %d: %w", i, err)
		}
	}
	c := o.whole()
	c.Format = z.Format()
	return c, nil
}

// zstdChunkedPrefix tells the dialect of a layer, "" if it is of none.
func zstdChunkedPrefix(d ocispec.Descriptor) string {
	for _, prefix := range zstdChunkedPrefixes {
		if _, found := d.Annotations[prefix+zstdManifestChecksum]; found {
			return prefix
		}
	}
	return ""
}

// checkZstdChunked requires a checksum, and a position within the layer.
func checkZstdChunked(d ocispec.Descriptor, prefix string) error {
	if err := digest.Digest(d.Annotations[prefix+zstdManifestChecksum]).Validate(); err != nil {
		return fmt.Errorf("%s: %w", zstdManifestChecksum, err)
	}
	position := d.Annotations[prefix+zstdManifestPosition]
	var n [4]int64
	fields := strings.Split(position, ":")
	if len(fields) != len(n) {
		return fmt.Errorf("%s %q has not four numbers", zstdManifestPosition, clip(position))
	}
	for i, field := range fields {
		var err error
		if n[i], err = strconv.ParseInt(field, 10, 64); err != nil || n[i] < 0 {
			return fmt.Errorf("%s %q has not four numbers", zstdManifestPosition, clip(position))
		}
	}
	offset, length, plain, kind := n[0], n[1], n[2], n[3]
	switch {
	case kind != 1: // a table of contents as CRFS defines it, the only kind there is
		return fmt.Errorf("%s is of type %d, not 1", zstdManifestPosition, kind)
	case length == 0 || length > d.Size || offset > d.Size-length:
		return fmt.Errorf("%s %s is outside the layer of %d bytes", zstdManifestPosition, clip(position), d.Size)
	case length > maxTOCSize || plain > maxTOCSize:
		return fmt.Errorf("%s %s is of a table over %d bytes", zstdManifestPosition, clip(position), maxTOCSize)
	}
	return nil
}

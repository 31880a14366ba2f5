package zstdchunked

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/lazyblock/format/stargztoc"
)

// Prefixes of annotations, one for each dialect, and what follows them.
const (
	prefixStargz     = "io.containers.zstd-chunked."
	prefixContainers = "io.github.containers.zstd-chunked."

	manifestChecksum = "manifest-checksum" // digest of the table, compressed
	manifestPosition = "manifest-position" // "offset:length:length expanded:type"
)

// frameHeader is what precedes the content of a skippable frame, in bytes
// (RFC 8878, section 3.1.2).
const frameHeader = 8

// typeCRFS is the type of the one kind of table there is.
const typeCRFS = 1

// position is where a layer's table is and what vouches for it.
type position struct {
	off, stored int64
	size        int64 // expanded
	digest      digest.Digest
}

// end is where the frames with files end in the blob.
func (p position) end() int64 { return p.off - frameHeader }

// hasTable reports whether a layer has a table that somebody vouches for.
func hasTable(layer ocispec.Descriptor) bool {
	_, stargz := layer.Annotations[prefixStargz+manifestChecksum]
	_, containers := layer.Annotations[prefixContainers+manifestChecksum]
	return stargz || containers
}

// positionOf reads the annotations of a layer.
func positionOf(layer ocispec.Descriptor) (position, error) {
	prefix := prefixStargz
	if _, found := layer.Annotations[prefix+manifestChecksum]; !found {
		prefix = prefixContainers
	}
	p := position{digest: digest.Digest(layer.Annotations[prefix+manifestChecksum])}
	if err := p.digest.Validate(); err != nil {
		return p, fmt.Errorf("annotation %s, which vouches for the table of contents: %w", prefix+manifestChecksum, err)
	}
	said := layer.Annotations[prefix+manifestPosition]
	fields := strings.Split(said, ":")
	var n [4]int64
	if len(fields) != len(n) {
		return p, fmt.Errorf("annotation %s: %.64q has not %d numbers", prefix+manifestPosition, said, len(n))
	}
	for i, field := range fields {
		var err error
		if n[i], err = strconv.ParseInt(field, 10, 64); err != nil || n[i] < 0 {
			return p, fmt.Errorf("annotation %s: %.64q is no number", prefix+manifestPosition, field)
		}
	}
	p.off, p.stored, p.size = n[0], n[1], n[2]
	switch {
	case n[3] != typeCRFS:
		return p, fmt.Errorf("table of type %d, want %d", n[3], typeCRFS)
	case p.off < frameHeader || p.stored == 0 || p.stored > layer.Size || p.off > layer.Size-p.stored:
		return p, fmt.Errorf("table of %d bytes at %d, in a layer of %d bytes", p.stored, p.off, layer.Size)
	case p.size > stargztoc.MaxBytes || p.stored > stargztoc.MaxBytes:
		return p, fmt.Errorf("table of %d bytes stored in %d, want at most %d", p.size, p.stored, stargztoc.MaxBytes)
	}
	return p, nil
}

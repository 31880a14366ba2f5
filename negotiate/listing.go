package negotiate

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/negotiate/carry"
)

// Caps on a list of referrers. They stop a registry that pages without end.
const (
	maxPages   = 16
	maxEntries = 1000
)

// maxTypeLength bounds what is remembered of an artifact type; RFC 6838 allows
// 127 characters on each side of the slash.
const maxTypeLength = 255

// maxCarrying bounds what an entry may say to carry its manifest, in bytes.
const maxCarrying = 8 << 10

// entry is one line of a list of referrers, cut down to what is used, so that a
// list in memory stays small whatever the registry writes into it.
type entry struct {
	mediaType    string
	digest       digest.Digest
	size         int64
	artifactType string
	created      time.Time
	found        Discovery
	annotations  map[string]string // those of an entry that carries its manifest, until it is unpacked
}

func (e entry) descriptor() ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: e.mediaType, Digest: e.digest, Size: e.size}
}

// listing is what was found attached to one subject.
type listing struct {
	entries []entry
	problem error // what went wrong on the way; entries may be there all the same
}

// merge adds what other has and l has not.
func (l *listing) merge(other listing) {
	for _, e := range other.entries {
		l.add(e)
	}
	if l.problem == nil {
		l.problem = other.problem
	}
}

// add appends an entry that is not there already; it returns false when the list is full.
func (l *listing) add(e entry) bool {
	if slices.ContainsFunc(l.entries, func(have entry) bool { return have.digest == e.digest }) {
		return true
	}
	if len(l.entries) >= maxEntries {
		return false
	}
	l.entries = append(l.entries, e)
	return true
}

// order sorts newest first, those without a time last, then by digest: what is
// looked at does not depend on the order in which a registry lists.
func (l *listing) order() {
	slices.SortStableFunc(l.entries, func(a, b entry) int {
		return cmp.Or(b.created.Compare(a.created), cmp.Compare(a.digest, b.digest))
	})
}

// page is the body of any list of referrers. OCI has "manifests"; ORAS has
// "referrers" since rc.1 and "references" before, where a next page may be named
// in the body.
type page struct {
	SchemaVersion int       `json:"schemaVersion"`
	MediaType     string    `json:"mediaType"`
	Manifests     entryList `json:"manifests"`
	Referrers     entryList `json:"referrers"`
	References    entryList `json:"references"`
	NextLink      string    `json:"@nextLink"`
}

// entryList decodes entries one at a time and leaves out those that are unusable.
type entryList struct {
	entries []entry
	present bool // the member is there, null included
	cut     bool // there were more than maxEntries
}

// UnmarshalJSON never fails on a single bad entry.
func (l *entryList) UnmarshalJSON(content []byte) error {
	l.present = true
	dec := json.NewDecoder(bytes.NewReader(content))
	if tok, err := dec.Token(); err != nil || tok == nil {
		return err // null is an empty list
	} else if tok != json.Delim('[') {
		return fmt.Errorf("list of referrers begins with %v", tok)
	}
	for dec.More() {
		if len(l.entries) == maxEntries {
			l.cut = true
			return nil
		}
		var d ocispec.Descriptor
		if err := dec.Decode(&d); err != nil {
			return err
		}
		if e, ok := entryOf(d); ok {
			l.entries = append(l.entries, e)
		}
	}
	return nil
}

// entryOf copies what is used, so that the page's bytes can be freed.
func entryOf(d ocispec.Descriptor) (entry, bool) {
	mediaType := bareMediaType(d.MediaType)
	if validDescriptor(d) != nil || !isManifest(mediaType) || len(d.ArtifactType) > maxTypeLength {
		return entry{}, false
	}
	e := entry{
		mediaType: mediaType, digest: d.Digest, size: d.Size,
		artifactType: d.ArtifactType, created: created(d.Annotations),
	}
	if d.Annotations[carry.Annotation] != "" && length(d.Annotations) <= maxCarrying {
		e.annotations = d.Annotations
	}
	return e, true
}

func length(annotations map[string]string) (n int) {
	for key, value := range annotations {
		n += len(key) + len(value)
	}
	return n
}

package negotiate

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/internal/reason"
)

// Media types of manifests outside image-spec's package.
const (
	mediaTypeDockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	mediaTypeDockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
	mediaTypeOCIArtifact    = "application/vnd.oci.artifact.manifest.v1+json"       // image-spec 1.1.0-rc1 and rc2 only
	mediaTypeORASArtifact   = "application/vnd.cncf.oras.artifact.manifest.v1+json" // artifacts-spec 1.0.0-rc.2
	mediaTypeORASDraft      = "application/vnd.oras.artifact.manifest.v1+json"      // in a comment of its first drafts
)

// maxDescriptors bounds every list of descriptors in a document. A 4 MiB body
// of empty objects would else become some 200 MB.
const maxDescriptors = 1000

// Manifest is any manifest, normalised: image manifests and indexes of OCI and
// Docker, OCI artifact manifests, ORAS artifact manifests.
type Manifest struct {
	Descriptor   ocispec.Descriptor   // digest, size and media type of the document itself
	ArtifactType string               // the member, or else the config's media type
	Config       *ocispec.Descriptor  // nil where the kind has none
	Files        []ocispec.Descriptor // layers or blobs
	Manifests    []ocispec.Descriptor // entries of an index
	Subject      *ocispec.Descriptor
	Annotations  map[string]string
}

// document is the union of all kinds' members.
type document struct {
	SchemaVersion int                 `json:"schemaVersion"`
	MediaType     string              `json:"mediaType"`
	ArtifactType  string              `json:"artifactType"`
	Config        *ocispec.Descriptor `json:"config"`
	Layers        descriptorList      `json:"layers"`
	Blobs         descriptorList      `json:"blobs"`
	Manifests     descriptorList      `json:"manifests"`
	Subject       *ocispec.Descriptor `json:"subject"`
	Annotations   map[string]string   `json:"annotations"`
}

// DecodeManifest decodes a manifest of any kind. mediaType is what the
// descriptor or the Content-Type says; where that is empty or too general, the
// document's own member decides. Errors carry reason.ArtifactInvalid.
func DecodeManifest(mediaType string, content []byte) (*Manifest, error) {
	m, err := decodeManifest(mediaType, content)
	return m, reason.Wrap(reason.ArtifactInvalid, err)
}

func decodeManifest(mediaType string, content []byte) (*Manifest, error) {
	var doc document
	if err := json.Unmarshal(content, &doc); err != nil {
		return nil, fmt.Errorf("decode manifest: %w", err)
	}
	kind, err := doc.kind(mediaType)
	if err != nil {
		return nil, err
	}
	m := &Manifest{
		Descriptor:   ocispec.Descriptor{MediaType: kind, Digest: digest.FromBytes(content), Size: int64(len(content))},
		ArtifactType: doc.ArtifactType, Subject: doc.Subject, Annotations: doc.Annotations,
	}
	// Up to rc.1 of the ORAS specification a missing subject was written as an empty one.
	if m.Subject != nil && m.Subject.Digest == "" {
		m.Subject = nil
	}
	switch {
	case isIndex(kind):
		m.Manifests = doc.Manifests
	case isArtifact(kind):
		m.Files = doc.Blobs
	default:
		m.Config, m.Files = doc.Config, doc.Layers
		if m.ArtifactType == "" && m.Config != nil {
			m.ArtifactType = m.Config.MediaType
		}
	}
	if err := m.validate(); err != nil {
		return nil, fmt.Errorf("manifest %s: %w", m.Descriptor.Digest, err)
	}
	return m, nil
}

// kind settles the media type. A document that can be read as two kinds is
// refused, as containerd does: each reader would see another image in it.
func (doc *document) kind(mediaType string) (string, error) {
	kind := bareMediaType(mediaType)
	if !isManifest(kind) {
		kind = doc.MediaType
	}
	switch {
	case !isManifest(kind):
		return "", fmt.Errorf("media type %q (%q in the document) is no manifest known here", mediaType, doc.MediaType)
	case doc.MediaType != "" && doc.MediaType != kind:
		return "", fmt.Errorf("served as %q but says %q", kind, doc.MediaType)
	case isIndex(kind) && (doc.Config != nil || doc.Layers != nil || doc.Blobs != nil),
		isArtifact(kind) && (doc.Config != nil || doc.Layers != nil || doc.Manifests != nil),
		isImage(kind) && (doc.Manifests != nil || doc.Blobs != nil):
		return "", fmt.Errorf("document of type %q has members of another kind", kind)
	case !isArtifact(kind) && doc.SchemaVersion != 2:
		return "", fmt.Errorf("schema version %d of %q is not 2", doc.SchemaVersion, kind)
	}
	return kind, nil
}

func (m *Manifest) validate() error {
	all := slices.Concat(m.Files, m.Manifests)
	for _, d := range []*ocispec.Descriptor{m.Config, m.Subject} {
		if d != nil {
			all = append(all, *d)
		}
	}
	for _, d := range all {
		if err := validDescriptor(d); err != nil {
			return err
		}
	}
	if isImage(m.Descriptor.MediaType) && m.Config == nil {
		return errors.New("image manifest without config")
	}
	if isArtifact(m.Descriptor.MediaType) && m.ArtifactType == "" {
		return errors.New("artifact manifest without artifact type")
	}
	return nil
}

// validDescriptor refuses digests of unknown form before they become part of a path.
func validDescriptor(d ocispec.Descriptor) error {
	if err := d.Digest.Validate(); err != nil {
		return fmt.Errorf("descriptor %q: %w", d.Digest, err)
	}
	if d.Size < 0 {
		return fmt.Errorf("descriptor %s: size %d", d.Digest, d.Size)
	}
	return nil
}

// descriptorList decodes at most maxDescriptors descriptors, one at a time.
type descriptorList []ocispec.Descriptor

// UnmarshalJSON refuses longer lists before they take memory.
func (l *descriptorList) UnmarshalJSON(content []byte) error {
	dec := json.NewDecoder(bytes.NewReader(content))
	if tok, err := dec.Token(); err != nil || tok == nil {
		return err // null stays nil
	} else if tok != json.Delim('[') {
		return fmt.Errorf("list of descriptors begins with %v", tok)
	}
	list := descriptorList{}
	for dec.More() {
		if len(list) == maxDescriptors {
			return fmt.Errorf("more than %d descriptors in a list", maxDescriptors)
		}
		var d ocispec.Descriptor
		if err := dec.Decode(&d); err != nil {
			return err
		}
		list = append(list, d)
	}
	*l = list
	return nil
}

// creationAnnotations are the keys under which artifacts say when they were
// made; the last one is that of one week in March 2022.
var creationAnnotations = [...]string{
	ocispec.AnnotationCreated,
	"org.opencontainers.artifact.created",
	"io.cncf.oras.artifact.created",
	"org.cncf.oras.artifact.created",
}

// created reads the creation time out of annotations, zero where there is none.
func created(annotations map[string]string) time.Time {
	for _, key := range creationAnnotations {
		if t, err := time.Parse(time.RFC3339, annotations[key]); err == nil {
			return t
		}
	}
	return time.Time{}
}

func bareMediaType(value string) string {
	if bare, _, err := mime.ParseMediaType(value); err == nil {
		return bare
	}
	return value
}

func isImage(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageManifest || mediaType == mediaTypeDockerManifest
}

func isIndex(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageIndex || mediaType == mediaTypeDockerList
}

func isArtifact(mediaType string) bool {
	return mediaType == mediaTypeOCIArtifact || mediaType == mediaTypeORASArtifact || mediaType == mediaTypeORASDraft
}

func isManifest(mediaType string) bool {
	return isImage(mediaType) || isIndex(mediaType) || isArtifact(mediaType)
}

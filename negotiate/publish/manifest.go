package publish

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/negotiate/carry"
)

// mediaTypeORAS is that of ORAS artifact manifests (artifacts-spec 1.0.0-rc.2).
const mediaTypeORAS = "application/vnd.cncf.oras.artifact.manifest.v1+json"

// Annotations of overlaybd layers, as the original converter writes them, and the
// creation time in ORAS manifests.
const (
	annotationBlobDigest   = "containerd.io/snapshot/overlaybd/blob-digest"
	annotationBlobSize     = "containerd.io/snapshot/overlaybd/blob-size"
	annotationVersion      = "containerd.io/snapshot/overlaybd/version"
	annotationAcceleration = "containerd.io/snapshot/overlaybd/acceleration-layer"
	annotationORASCreated  = "io.cncf.oras.artifact.created"
)

// nativeVersion is the version of native layers that its readers know.
const nativeVersion = "0.1.0"

// artifact is a manifest ready to be pushed.
type artifact struct {
	descriptor   ocispec.Descriptor
	content      []byte
	subject      ocispec.Descriptor
	artifactType string
	annotations  map[string]string
}

// orasManifest is an ORAS artifact manifest, members in the order in which they
// are found in the wild.
type orasManifest struct {
	MediaType    string               `json:"mediaType"`
	ArtifactType string               `json:"artifactType"`
	Subject      ocispec.Descriptor   `json:"subject"`
	Blobs        []ocispec.Descriptor `json:"blobs"`
	Annotations  map[string]string    `json:"annotations,omitempty"`
}

// manifest builds the manifest that says what f is.
func (f Form) manifest(opts Options) (*artifact, error) {
	switch {
	case f.Source.Digest.Validate() != nil || f.Source.MediaType == "":
		return nil, errors.New("the source's descriptor is incomplete")
	case len(f.Layers) == 0:
		return nil, errors.New("there are no layers")
	case len(f.Config) == 0:
		return nil, errors.New("there is no config")
	}
	a := &artifact{subject: plain(f.Source), annotations: maps.Clone(f.Annotations)}
	var layers []ocispec.Descriptor
	for _, file := range f.Layers {
		layers = append(layers, layerDescriptor(file.Descriptor, opts.LegacyORAS))
	}
	if f.Prefetch != nil {
		trace := layerDescriptor(f.Prefetch.Descriptor, opts.LegacyORAS)
		trace.Annotations[annotationAcceleration] = "yes"
		layers = append(layers, trace)
	}
	if opts.LegacyORAS {
		a.artifactType = ArtifactTypeDADI
		a.date(annotationORASCreated, opts.Created)
		return a.marshal(mediaTypeORAS, orasManifest{
			MediaType: mediaTypeORAS, ArtifactType: a.artifactType, Subject: a.subject,
			Blobs: append([]ocispec.Descriptor{f.config()}, layers...), Annotations: a.annotations,
		})
	}
	a.artifactType = ArtifactTypeNative
	a.date(ocispec.AnnotationCreated, opts.Created)
	return a.marshal(ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		ArtifactType: a.artifactType, Config: f.config(), Layers: layers, Subject: &a.subject, Annotations: a.annotations,
	})
}

// layerDescriptor adds the annotations by which readers know a native layer.
// The ORAS form was made before there was a version.
func layerDescriptor(d ocispec.Descriptor, legacy bool) ocispec.Descriptor {
	if d.MediaType == "" {
		d.MediaType = ocispec.MediaTypeImageLayer // it is an uncompressed tar
	}
	annotations := maps.Clone(d.Annotations)
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[annotationBlobDigest] = d.Digest.String()
	annotations[annotationBlobSize] = strconv.FormatInt(d.Size, 10)
	if _, set := annotations[annotationVersion]; !set && !legacy {
		annotations[annotationVersion] = nativeVersion
	}
	d.Annotations = annotations
	return d
}

// indexOf builds the index that is attached to a source index: each entry keeps
// all that the source says of it, but for what the content is.
func indexOf(source ocispec.Descriptor, artifactType string, entries []Entry, opts Options) (*artifact, error) {
	if len(entries) == 0 {
		return nil, errors.New("there are no entries")
	}
	if opts.LegacyORAS {
		return nil, errors.New("the ORAS form has no indexes")
	}
	a := &artifact{subject: plain(source), artifactType: artifactType}
	a.date(ocispec.AnnotationCreated, opts.Created)
	index := ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex,
		ArtifactType: a.artifactType, Subject: &a.subject, Annotations: a.annotations,
	}
	for _, e := range entries {
		d := e.Source
		d.MediaType, d.Digest, d.Size = e.Converted.MediaType, e.Converted.Digest, e.Converted.Size
		index.Manifests = append(index.Manifests, d)
	}
	return a.marshal(ocispec.MediaTypeImageIndex, index)
}

func (a *artifact) date(key string, created time.Time) {
	if created.IsZero() {
		return
	}
	if a.annotations == nil {
		a.annotations = map[string]string{}
	}
	a.annotations[key] = created.UTC().Format(time.RFC3339)
}

// marshal completes a by its content.
func (a *artifact) marshal(mediaType string, manifest any) (*artifact, error) {
	content, err := json.Marshal(manifest)
	if err != nil {
		return nil, err
	}
	a.describe(mediaType, content)
	return a, nil
}

func (a *artifact) describe(mediaType string, content []byte) {
	a.content = content
	a.descriptor = ocispec.Descriptor{
		MediaType: mediaType, Digest: digest.FromBytes(content), Size: int64(len(content)), ArtifactType: a.artifactType,
	}
}

// carried makes a manifest one that need not be fetched by who reads of it in a list:
// a pull waits for forms. Not an ORAS manifest, as its annotations are in no list.
func (o Options) carried(a *artifact, err error) (*artifact, error) {
	if err != nil || o.AsIs || a.descriptor.MediaType == mediaTypeORAS {
		return a, err
	}
	content, annotations, err := carry.Pack(a.content, a.annotations)
	if err != nil {
		return nil, err
	}
	a.annotations = annotations
	a.describe(a.descriptor.MediaType, content)
	return a, nil
}

// plain is a descriptor as a subject holds it: nothing but what it points to.
func plain(d ocispec.Descriptor) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}
}

// Config makes the config of a converted image out of the source's: the diff IDs
// become the digests of the converted layers, which are uncompressed tars; every
// other member stays as it is, known here or not.
func Config(source []byte, layers []digest.Digest) ([]byte, error) {
	var config, rootfs map[string]json.RawMessage
	if err := json.Unmarshal(source, &config); err != nil {
		return nil, fmt.Errorf("decode image config: %w", err)
	}
	if err := json.Unmarshal(config["rootfs"], &rootfs); err != nil || rootfs == nil {
		return nil, fmt.Errorf("decode rootfs of image config: %w", errors.Join(err, errNoRootFS))
	}
	diffIDs, err := json.Marshal(layers)
	if err != nil {
		return nil, err
	}
	rootfs["diff_ids"] = diffIDs
	if config["rootfs"], err = json.Marshal(rootfs); err != nil {
		return nil, err
	}
	return json.Marshal(config) // sorted by key: the same bytes each time
}

var errNoRootFS = errors.New("it must be an object")

// serial returns a callback that is called by one goroutine at a time.
func serial(report func(Event)) func(Event) {
	if report == nil {
		return func(Event) {}
	}
	var mu sync.Mutex
	return func(e Event) {
		mu.Lock()
		defer mu.Unlock()
		report(e)
	}
}

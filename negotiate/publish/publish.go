package publish

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry/remote"
)

// ArtifactTypeNative and ArtifactTypeDADI say "native overlaybd image", in OCI and
// in ORAS manifests (accelerated-container-image; its converters before OCI 1.1).
const (
	ArtifactTypeNative = "application/vnd.containerd.overlaybd.native.v1+json"
	ArtifactTypeDADI   = "dadi.image.v1"
)

// parallelBlobs is how many blobs are pushed side by side.
const parallelBlobs = 3

// File is a blob that lies on disk.
type File struct {
	ocispec.Descriptor // digest and size are what the registry will check

	Path string
}

// Form is the accelerated form of one image.
type Form struct {
	Source          ocispec.Descriptor // the image's manifest; becomes the subject
	Config          []byte             // an image config that fits Layers; see Config
	ConfigMediaType string             // empty: OCI's
	Layers          []File             // bottom first
	Prefetch        *File              // the acceleration layer, if there is one
	Annotations     map[string]string  // of the manifest
}

// Options says how a form is published. The zero value is what current
// registries and readers expect.
type Options struct {
	LegacyORAS bool        // as an ORAS artifact manifest of type dadi.image.v1
	AsIs       bool        // the manifest as its format's own tools write it: no annotation that carries it in lists
	Created    time.Time   // zero: no creation time, so that equal forms are equal bytes
	Progress   func(Event) // nil: silent; called by one goroutine at a time
}

// Event is a step in pushing one blob or manifest.
type Event struct {
	Descriptor ocispec.Descriptor
	Sent       int64 // bytes so far
	Done       bool
	Existed    bool // nothing was sent: the registry had it
}

// Push pushes a form into the repository of its source and has it listed there.
// It returns the descriptor of the artifact's manifest. What exists already is
// not sent again.
func Push(ctx context.Context, repo *remote.Repository, form Form, opts Options) (ocispec.Descriptor, error) {
	artifact, err := opts.carried(form.manifest(opts))
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("build manifest for %s: %w", form.Source.Digest, err)
	}
	return newPusher(repo, opts).push(ctx, artifact, form.blobs())
}

// Entry is one platform of a multi-platform image and its accelerated form.
type Entry struct {
	Source    ocispec.Descriptor // as it stands in the source index, with its platform
	Converted ocispec.Descriptor // what Push returned
}

// PushIndex attaches to a source index the index of the forms of its images, so
// that readers who ask about the index find all of them. The forms themselves
// have been pushed before, and are of artifactType.
func PushIndex(ctx context.Context, repo *remote.Repository, source ocispec.Descriptor, artifactType string, entries []Entry, opts Options) (ocispec.Descriptor, error) {
	artifact, err := opts.carried(indexOf(source, artifactType, entries, opts))
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("build index for %s: %w", source.Digest, err)
	}
	return newPusher(repo, opts).push(ctx, artifact, nil)
}

// pusher pushes into one repository.
type pusher struct {
	repo   *remote.Repository
	report func(Event)
}

// newPusher keeps the library from maintaining the fallback tag: it would take
// an image under that tag for an empty list and overwrite it (oras-go 2.7), and
// where deleting is not allowed it fails. attach does that instead.
func newPusher(repo *remote.Repository, opts Options) *pusher {
	own := &remote.Repository{
		Client: repo.Client, Reference: repo.Reference, PlainHTTP: repo.PlainHTTP,
		HandleWarning: repo.HandleWarning, MaxMetadataBytes: repo.MaxMetadataBytes, ReferrerListMaxPages: maxListPages,
	}
	_ = own.SetReferrersCapability(true) // fails only where it was set before
	return &pusher{repo: own, report: serial(opts.Progress)}
}

// pushBlob sends a blob that the registry does not have.
func (p *pusher) pushBlob(ctx context.Context, blob Blob) error {
	d := blob.Descriptor
	exists, err := p.repo.Blobs().Exists(ctx, d)
	if err != nil {
		return fmt.Errorf("ask for it: %w", err)
	}
	if exists {
		p.report(Event{Descriptor: d, Done: true, Existed: true})
		return nil
	}
	content, err := blob.Open(ctx)
	if err != nil {
		return err
	}
	counted := &countingReader{r: content, event: Event{Descriptor: d}, report: p.report}
	if err := errors.Join(p.repo.Blobs().Push(ctx, d, counted), content.Close()); err != nil {
		return err
	}
	p.report(Event{Descriptor: d, Sent: d.Size, Done: true})
	return nil
}

// countingReader reports what is read through it.
type countingReader struct {
	r      io.Reader
	event  Event
	report func(Event)
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.event.Sent += int64(n)
	c.report(c.event)
	return n, err
}

// config describes the form's config.
func (f Form) config() ocispec.Descriptor {
	mediaType := f.ConfigMediaType
	if mediaType == "" {
		mediaType = ocispec.MediaTypeImageConfig
	}
	return ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(f.Config), Size: int64(len(f.Config))}
}

// blobs are what the form's manifest needs.
func (f Form) blobs() []Blob {
	blobs := []Blob{BytesBlob(f.config(), f.Config)}
	for _, file := range f.Layers {
		blobs = append(blobs, FileBlob(file.Descriptor, file.Path))
	}
	if f.Prefetch != nil {
		blobs = append(blobs, FileBlob(f.Prefetch.Descriptor, f.Prefetch.Path))
	}
	return blobs
}

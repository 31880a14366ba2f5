// Package conversion is what `referee convert` does: for every wanted platform of
// an image, make a form of it and either attach that to the image as a referrer or
// push it as an image under a reference of its own, as the format allows.
//
// It owns the order of things (resolve, choose platforms, convert, push, unite,
// sign) and the temporary files. A [Target] is one format; how its layers are
// written is for the packages below lazyblock/convert, how a form is published for
// package publish.
package conversion

import (
	"context"
	"errors"
	"fmt"
	"os"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/registry/remote"

	"github.com/referee-cri/referee/lazyblock/convert/source"
	"github.com/referee-cri/referee/negotiate/publish"
)

// Options of Run. Source is required.
type Options struct {
	Source      string   // "host/repository:tag", or "oci:FOLDER:TAG" for an OCI image layout
	To          Target   // nil: Overlaybd{}
	Destination string   // repository to attach to; "" where Source is a registry's
	Reference   string   // of the new image, where To makes one: a tag in Destination, or "host/repository:tag"
	Platforms   []string // "linux/arm64"; empty: every Linux platform of the image
	PlainHTTP   bool     // also for hosts other than this machine
	UserAgent   string
	TempDir     string // "" is the system's

	// Sign signs something that was pushed and puts the signature beside it. nil:
	// nothing is signed.
	Sign func(ctx context.Context, repo *remote.Repository, subject ocispec.Descriptor) (ocispec.Descriptor, error)

	Converting func(platform string, p source.Progress) // may be nil
	Pushing    func(publish.Event)                      // may be nil
	Remark     func(string)                             // what a person should know; may be nil
}

// Attached is one published form.
type Attached struct {
	Platform string
	Format   string
	Subject  ocispec.Descriptor // the image that it is a form of
	Artifact ocispec.Descriptor // the form's manifest
	Layers   []ocispec.Descriptor
	// Reference is that of the new image which the form is, "" where it is attached
	// to its subject.
	Reference string `json:",omitempty"`
	// Keeps says what a new image has in common with its subject.
	Keeps string `json:",omitempty"`
	// Signature is the manifest of the artifact's signature, nil without one.
	Signature *ocispec.Descriptor
}

// Run converts and publishes, and returns what was made. Nothing is published for a
// platform whose conversion failed; what those before it got stays, without a tag
// where it is a new image.
func Run(ctx context.Context, opts Options) ([]Attached, error) {
	if opts.To == nil {
		opts.To = Overlaybd{}
	}
	if opts.Remark == nil {
		opts.Remark = func(string) {}
	}
	origin, tag, err := openSource(ctx, opts)
	if err != nil {
		return nil, err
	}
	destination, err := openDestination(opts)
	if err != nil {
		return nil, err
	}
	root, err := origin.Resolve(ctx, tag)
	if err != nil {
		return nil, fmt.Errorf("resolve %s: %w", opts.Source, err)
	}
	images, left, err := imagesOf(ctx, origin, root, opts.Platforms)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", opts.Source, err)
	}
	r := &run{Options: opts, origin: origin, destination: destination, root: root}
	if opts.To.Keeps() != "" {
		for _, d := range left {
			opts.Remark(fmt.Sprintf("left out of the new image: %s (%s)", platformName(d), d.Digest))
		}
	}
	for _, image := range images {
		if err := r.convert(ctx, image); err != nil {
			return r.attached, fmt.Errorf("convert %s for %s: %w", opts.Source, platformName(image), err)
		}
	}
	return r.attached, r.finish(ctx)
}

// run is one call of Run at work.
type run struct {
	Options

	origin      content.Fetcher
	destination *remote.Repository
	root        ocispec.Descriptor // what Source names
	made        []Made
	attached    []Attached
}

// convert makes and pushes the form of one platform's image.
func (r *run) convert(ctx context.Context, d ocispec.Descriptor) (err error) {
	dir, err := os.MkdirTemp(r.TempDir, "referee-convert-*")
	if err != nil {
		return fmt.Errorf("make work directory: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	image, err := source.Read(ctx, r.origin, d)
	if err != nil {
		return err
	}
	form, err := r.To.Make(ctx, image, r.work(dir, platformName(d)))
	if err != nil {
		return err
	}
	one := Attached{Platform: platformName(d), Format: r.To.Name(), Subject: plain(d), Layers: form.Layers(), Keeps: r.To.Keeps()}
	if one.Artifact, err = form.Push(ctx, r.destination, r.pushOptions()); err != nil {
		return err
	}
	if one.Signature, err = r.sign(ctx, one.Artifact); err != nil {
		return err
	}
	r.made = append(r.made, Made{Image: image, Form: form, Artifact: one.Artifact})
	if one.Keeps != "" {
		one.Reference = r.destination.Reference.String()
	}
	r.attached = append(r.attached, one)
	return nil
}

func (r *run) work(dir, platform string) Work {
	return Work{Dir: dir, Remark: func(text string) { r.Remark(platform + ": " + text) }, Progress: func(p source.Progress) {
		if r.Converting != nil {
			r.Converting(platform, p)
		}
	}}
}

// finish pushes what holds the forms of several platforms together.
func (r *run) finish(ctx context.Context) error {
	whole, err := r.To.Unite(ctx, r.destination, r.root, r.made, r.pushOptions())
	if err != nil || whole == nil {
		return err
	}
	if len(r.made) == 1 && whole.Digest == r.made[0].Artifact.Digest {
		return nil // signed already
	}
	_, err = r.sign(ctx, *whole)
	return err
}

// sign signs what was pushed, if anything is to be signed.
func (r *run) sign(ctx context.Context, artifact ocispec.Descriptor) (*ocispec.Descriptor, error) {
	if r.Sign == nil {
		return nil, nil
	}
	signature, err := r.Sign(ctx, r.destination, plain(artifact))
	if err != nil {
		return nil, fmt.Errorf("sign %s: %w", artifact.Digest, err)
	}
	return &signature, nil
}

func (r *run) pushOptions() publish.Options { return publish.Options{Progress: r.Pushing} }

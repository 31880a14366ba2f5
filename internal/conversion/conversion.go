// Package conversion is what `referee convert` does: for every wanted platform
// of an image, convert its layers and attach the result to it as a referrer.
//
// It owns the order of things (resolve, choose platforms, convert, push, index)
// and the temporary files. How layers are written is package convert's, how a
// form is published package publish's.
package conversion

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/content/oci"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"
	"oras.land/oras-go/v2/registry/remote/retry"

	"github.com/referee-cri/referee/lazyblock/convert"
	"github.com/referee-cri/referee/lazyblock/format/overlaybd"
	"github.com/referee-cri/referee/negotiate/publish"
)

// Options of Run. Source is required.
type Options struct {
	Source      string   // "host/repository:tag", or "oci:FOLDER:TAG" for an OCI image layout
	Destination string   // repository to attach to; "" where Source is a registry's
	Platforms   []string // "linux/arm64"; empty: every Linux platform of the image
	LegacyORAS  bool     // publish as an ORAS artifact manifest
	Algorithm   overlaybd.Algorithm
	BlockSize   int
	PlainHTTP   bool // also for hosts other than this machine
	UserAgent   string
	TempDir     string // "" is the system's

	// Sign signs something that was pushed and puts the signature beside it. nil:
	// nothing is signed.
	Sign func(ctx context.Context, repo *remote.Repository, subject ocispec.Descriptor) (ocispec.Descriptor, error)

	Converting func(platform string, p convert.Progress) // may be nil
	Pushing    func(publish.Event)                       // may be nil
}

// Attached is one published form.
type Attached struct {
	Platform string
	Subject  ocispec.Descriptor
	Artifact ocispec.Descriptor
	Layers   []ocispec.Descriptor
	// Signature is the manifest of the artifact's signature, nil without one.
	Signature *ocispec.Descriptor
}

// Run converts and publishes, and returns what was attached. Nothing is
// attached to a platform whose conversion failed; those before it stay.
func Run(ctx context.Context, opts Options) ([]Attached, error) {
	source, tag, err := openSource(ctx, opts)
	if err != nil {
		return nil, err
	}
	destination, err := openDestination(opts)
	if err != nil {
		return nil, err
	}
	root, err := source.Resolve(ctx, tag)
	if err != nil {
		return nil, fmt.Errorf("resolve %s: %w", opts.Source, err)
	}
	images, err := imagesOf(ctx, source, root, opts.Platforms)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", opts.Source, err)
	}
	var attached []Attached
	for _, image := range images {
		one, err := attach(ctx, source, destination, image, opts)
		if err != nil {
			return attached, fmt.Errorf("convert %s for %s: %w", opts.Source, platformName(image), err)
		}
		attached = append(attached, one)
	}
	if isIndex(root.MediaType) {
		err = attachIndex(ctx, destination, root, images, attached, opts)
	}
	return attached, err
}

// attach converts one platform's image and pushes its form.
func attach(ctx context.Context, source content.Fetcher, destination *remote.Repository, image ocispec.Descriptor, opts Options) (one Attached, err error) {
	work, err := os.MkdirTemp(opts.TempDir, "referee-convert-*")
	if err != nil {
		return one, fmt.Errorf("make work directory: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	name := platformName(image)
	result, err := convert.Image(ctx, source, image, convert.Options{
		WorkDir: work, Algorithm: opts.Algorithm, BlockSize: opts.BlockSize,
		Progress: func(p convert.Progress) {
			if opts.Converting != nil {
				opts.Converting(name, p)
			}
		},
	})
	if err != nil {
		return one, err
	}
	form := publish.Form{Source: plain(image), Config: result.Config, ConfigMediaType: result.ConfigType}
	for _, layer := range result.Layers {
		form.Layers = append(form.Layers, publish.File{Descriptor: layer.Descriptor, Path: layer.Path})
		one.Layers = append(one.Layers, layer.Descriptor)
	}
	one.Platform, one.Subject = name, form.Source
	if one.Artifact, err = publish.Push(ctx, destination, form, pushOptions(opts)); err != nil {
		return one, err
	}
	one.Signature, err = sign(ctx, destination, one.Artifact, opts)
	return one, err
}

// sign signs what was pushed, if anything is to be signed.
func sign(ctx context.Context, destination *remote.Repository, artifact ocispec.Descriptor, opts Options) (*ocispec.Descriptor, error) {
	if opts.Sign == nil {
		return nil, nil
	}
	signature, err := opts.Sign(ctx, destination, plain(artifact))
	if err != nil {
		return nil, fmt.Errorf("sign %s: %w", artifact.Digest, err)
	}
	return &signature, nil
}

func attachIndex(ctx context.Context, destination *remote.Repository, root ocispec.Descriptor, images []ocispec.Descriptor, attached []Attached, opts Options) error {
	if opts.LegacyORAS {
		return nil // an ORAS artifact has blobs only: there is no such index
	}
	entries := make([]publish.Entry, len(images))
	for i := range images {
		entries[i] = publish.Entry{Source: images[i], Converted: attached[i].Artifact}
	}
	index, err := publish.PushIndex(ctx, destination, root, entries, pushOptions(opts))
	if err == nil {
		_, err = sign(ctx, destination, index, opts)
	}
	return err
}

func pushOptions(opts Options) publish.Options {
	return publish.Options{LegacyORAS: opts.LegacyORAS, Progress: opts.Pushing}
}

// imagesOf returns the manifests to convert: the root itself, or the Linux
// entries of an index, also of nested ones, that match wanted.
func imagesOf(ctx context.Context, source content.Fetcher, root ocispec.Descriptor, wanted []string) ([]ocispec.Descriptor, error) {
	if !isIndex(root.MediaType) {
		return []ocispec.Descriptor{root}, nil
	}
	matcher, err := matcherOf(wanted)
	if err != nil {
		return nil, err
	}
	images, err := walk(ctx, source, root, matcher, 0)
	if err == nil && len(images) == 0 {
		err = fmt.Errorf("index %s has no Linux image that matches %v", root.Digest, wanted)
	}
	return images, err
}

// maxNesting bounds indexes within indexes.
const maxNesting = 4

func walk(ctx context.Context, source content.Fetcher, index ocispec.Descriptor, wanted platforms.Matcher, depth int) ([]ocispec.Descriptor, error) {
	if depth == maxNesting {
		return nil, fmt.Errorf("indexes nested more than %d deep", maxNesting)
	}
	data, err := content.FetchAll(ctx, source, index)
	if err != nil {
		return nil, err
	}
	var parsed ocispec.Index
	if err := json.Unmarshal(data, &parsed); err != nil {
		return nil, fmt.Errorf("index %s: %w", index.Digest, err)
	}
	var images []ocispec.Descriptor
	for _, entry := range parsed.Manifests {
		switch {
		case isIndex(entry.MediaType):
			nested, err := walk(ctx, source, entry, wanted, depth+1)
			if err != nil {
				return nil, err
			}
			images = append(images, nested...)
		case entry.Platform != nil && entry.Platform.OS == "linux" && wanted.Match(*entry.Platform):
			images = append(images, entry)
		}
	}
	return images, nil
}

func matcherOf(wanted []string) (platforms.Matcher, error) {
	if len(wanted) == 0 {
		return platforms.All, nil
	}
	parsed, err := platforms.ParseAll(wanted)
	if err != nil {
		return nil, fmt.Errorf("platform: %w", err)
	}
	return platforms.Any(parsed...), nil
}

// openSource returns what Source names and the tag or digest in it.
func openSource(ctx context.Context, opts Options) (oras.ReadOnlyTarget, string, error) {
	if layout, isLayout := strings.CutPrefix(opts.Source, "oci:"); isLayout {
		folder, tag, found := cutLast(layout, ":")
		if !found {
			folder, tag = layout, "latest"
		}
		store, err := oci.NewFromFS(ctx, os.DirFS(folder))
		if err != nil {
			return nil, "", fmt.Errorf("open OCI layout %s: %w", folder, err)
		}
		return store, tag, nil
	}
	repo, err := OpenRepository(opts.Source, opts)
	if err != nil {
		return nil, "", err
	}
	if repo.Reference.Reference == "" {
		repo.Reference.Reference = "latest"
	}
	return repo, repo.Reference.Reference, nil
}

func openDestination(opts Options) (*remote.Repository, error) {
	switch {
	case opts.Destination != "":
		return OpenRepository(opts.Destination, opts)
	case strings.HasPrefix(opts.Source, "oci:"):
		return nil, errors.New("an OCI layout needs a repository to attach to: give --repository")
	default:
		return OpenRepository(opts.Source, opts)
	}
}

// OpenRepository returns a repository to read or write: of opts PlainHTTP and
// UserAgent count. It authenticates like docker: with its configuration file and
// credential helpers.
func OpenRepository(reference string, opts Options) (*remote.Repository, error) {
	repo, err := remote.NewRepository(reference)
	if err != nil {
		return nil, fmt.Errorf("reference %q: %w", reference, err)
	}
	store, err := credentials.NewStoreFromDocker(credentials.StoreOptions{})
	if err != nil {
		return nil, fmt.Errorf("read docker credentials: %w", err)
	}
	client := &auth.Client{Client: retry.DefaultClient, Cache: auth.NewCache(), Credential: credentials.Credential(store)}
	client.SetUserAgent(opts.UserAgent)
	repo.Client = client
	repo.PlainHTTP = opts.PlainHTTP || isThisMachine(repo.Reference.Host())
	return repo, nil
}

// isThisMachine follows containerd: such hosts speak plain HTTP by default.
func isThisMachine(host string) bool {
	name, _, _ := cutLast(host, ":")
	return name == "localhost" || strings.HasPrefix(name, "127.") || host == "localhost"
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

func isIndex(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageIndex || mediaType == "application/vnd.docker.distribution.manifest.list.v2+json"
}

func platformName(image ocispec.Descriptor) string {
	if image.Platform == nil {
		return "its platform"
	}
	return platforms.Format(*image.Platform)
}

// plain is the descriptor as a subject names it: type, digest and size only.
func plain(d ocispec.Descriptor) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}
}

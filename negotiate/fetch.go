package negotiate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/internal/registry"
)

// Limits on what is read into memory, in bytes.
const (
	maxManifestSize = 4 << 20 // distribution-spec 1.1: registries should take manifests of 4 MiB
	maxPageSize     = 4 << 20 // of a list of referrers; peers use 4 to 8 MiB
	maxConfigSize   = 8 << 20 // containerd's limit for a config is the same
)

// Accept headers. The image is asked for exactly as containerd asks, so that a
// registry that negotiates gives both of us the same manifest.
const (
	acceptImage = mediaTypeDockerManifest + ", " + mediaTypeDockerList + ", " +
		ocispec.MediaTypeImageManifest + ", " + ocispec.MediaTypeImageIndex + ", */*"
	acceptArtifact = ocispec.MediaTypeImageManifest + ", " + ocispec.MediaTypeImageIndex + ", " +
		mediaTypeOCIArtifact + ", " + mediaTypeORASArtifact + ", " + mediaTypeDockerManifest
	acceptIndex = ocispec.MediaTypeImageIndex
)

// answer is a response whose body has been read.
type answer struct {
	mediaType string // of Content-Type, without parameters
	header    http.Header
	body      []byte
	url       *url.URL // after redirects
	at        *registry.Location
}

// errTooLong is part of what get says of a body that it did not read to its end.
var errTooLong = errors.New("is over the limit")

// get asks for one document of at most limit bytes.
func get(ctx context.Context, repo *registry.Repository, req registry.Request, limit int64) (*answer, error) {
	resp, err := repo.Do(ctx, req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }() // read only
	if resp.ContentLength > limit {
		return nil, reason.Errorf(reason.RegistryError, "get %s: body of %d bytes %w of %d", req.Path, resp.ContentLength, errTooLong, limit)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if ctx.Err() != nil {
		return nil, fmt.Errorf("read %s: %w", req.Path, ctx.Err())
	}
	if err != nil {
		return nil, reason.Errorf(reason.RegistryUnreachable, "read %s: %w", req.Path, err)
	}
	if int64(len(body)) > limit {
		return nil, reason.Errorf(reason.RegistryError, "get %s: body %w of %d bytes", req.Path, errTooLong, limit)
	}
	return &answer{
		mediaType: bareMediaType(resp.Header.Get("Content-Type")), header: resp.Header, body: body,
		url: resp.Request.URL, at: resp.At,
	}, nil
}

// getManifest fetches the manifest that d describes and checks it.
func getManifest(ctx context.Context, repo *registry.Repository, d ocispec.Descriptor, accept string) (*answer, error) {
	return getVerified(ctx, repo, d, maxManifestSize, registry.Request{
		Path: "manifests/" + d.Digest.String(), Header: http.Header{"Accept": {accept}}, Capability: registry.Pull,
	})
}

// getNamedManifest fetches a manifest of which only the digest is known, and checks it.
func getNamedManifest(ctx context.Context, repo *registry.Repository, d ocispec.Descriptor, accept string) (*answer, error) {
	if err := validDescriptor(d); err != nil {
		return nil, reason.Wrap(reason.ArtifactInvalid, err)
	}
	a, err := get(ctx, repo, registry.Request{
		Path: "manifests/" + d.Digest.String(), Header: http.Header{"Accept": {accept}}, Capability: registry.Pull,
	}, maxManifestSize)
	if err != nil {
		return nil, err
	}
	return a, checkDigest(d, a.body)
}

// getConfig fetches the blob that d describes and checks it.
func getConfig(ctx context.Context, repo *registry.Repository, d ocispec.Descriptor) ([]byte, error) {
	a, err := getVerified(ctx, repo, d, maxConfigSize, registry.Request{
		Path: "blobs/" + d.Digest.String(), Capability: registry.Pull,
	})
	if err != nil {
		return nil, err
	}
	return a.body, nil
}

func getVerified(ctx context.Context, repo *registry.Repository, d ocispec.Descriptor, limit int64, req registry.Request) (*answer, error) {
	if err := validDescriptor(d); err != nil {
		return nil, reason.Wrap(reason.ArtifactInvalid, err)
	}
	if d.Size > limit {
		return nil, reason.Errorf(reason.SizeMismatch, "%s is %d bytes, more than the limit of %d", d.Digest, d.Size, limit)
	}
	a, err := get(ctx, repo, req, d.Size)
	if errors.Is(err, errTooLong) {
		return nil, reason.Errorf(reason.SizeMismatch, "%s is longer than the %d bytes that its descriptor says", d.Digest, d.Size)
	}
	if err != nil {
		return nil, err
	}
	if got := int64(len(a.body)); got != d.Size {
		return nil, reason.Errorf(reason.SizeMismatch, "%s is %d bytes, its descriptor says %d", d.Digest, got, d.Size)
	}
	return a, checkDigest(d, a.body)
}

func checkDigest(d ocispec.Descriptor, body []byte) error {
	if got := d.Digest.Algorithm().FromBytes(body); got != d.Digest {
		return reason.Errorf(reason.DigestMismatch, "content of %s hashes to %s", d.Digest, got)
	}
	return nil
}

// status returns the HTTP status that err reports, with the distribution-spec
// error codes of its body; 0 where no host answered.
func status(err error) (code int, codes []string, header http.Header) {
	if answered, ok := errors.AsType[*registry.StatusError](err); ok {
		return answered.StatusCode, answered.Codes(), answered.Header
	}
	return 0, nil, nil
}

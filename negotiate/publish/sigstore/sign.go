package sigstore

import (
	"context"
	"fmt"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry/remote"
)

// Scheme is where a signature is put, and in which form.
type Scheme string

// The schemes.
const (
	// SchemeBundle: a Sigstore bundle 0.3 as a referrer, as cosign 3 makes it.
	SchemeBundle Scheme = "bundle"
	// SchemeTag: simple signing under the tag sha256-<hex>.sig, beside the
	// signatures that are there already, as cosign up to version 2 makes it.
	SchemeTag Scheme = "tag"
)

// Options says with what to sign, and how.
type Options struct {
	// KeyFile is a private key in PEM: PKCS #8, SEC 1, PKCS #1, or encrypted as
	// cosign generate-key-pair does.
	KeyFile string
	// Password decrypts KeyFile. nil: the environment's COSIGN_PASSWORD.
	Password []byte
	// Scheme is SchemeBundle where it is empty.
	Scheme Scheme
	// Created is the time that a bundle's manifest names. Zero: none.
	Created time.Time
}

// Sign signs subject, which is in the repository, and puts the signature there. It
// returns the descriptor of the manifest that holds it. It is an error if the
// registry says something else of subject's digest than subject does.
func Sign(ctx context.Context, repo *remote.Repository, subject ocispec.Descriptor, opts Options) (ocispec.Descriptor, error) {
	put := putBundle
	switch opts.Scheme {
	case "", SchemeBundle:
	case SchemeTag:
		put = putTag
	default:
		return ocispec.Descriptor{}, fmt.Errorf("scheme %q is neither %s nor %s", opts.Scheme, SchemeBundle, SchemeTag)
	}
	k, err := readKey(opts)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("read key %s: %w", opts.KeyFile, err)
	}
	there, err := repo.Resolve(ctx, subject.Digest.String())
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("find what to sign: %w", err)
	}
	if there.Digest != subject.Digest || there.Size != subject.Size || there.MediaType != subject.MediaType {
		return ocispec.Descriptor{}, fmt.Errorf("find what to sign: the registry has %s of %d bytes under %s, not %s of %d",
			there.MediaType, there.Size, subject.Digest, subject.MediaType, subject.Size)
	}
	d, err := put(ctx, repo, subject, k, opts)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("sign %s: %w", subject.Digest, err)
	}
	return d, nil
}

package sigstore

import (
	"bytes"
	"context"
	"crypto"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sigstore/sigstore/pkg/signature"
	simple "github.com/sigstore/sigstore/pkg/signature/payload"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry/remote"
)

// How cosign keeps simple signing in a registry (cosign, specs/SIGNATURE_SPEC.md):
// each signature is a layer, the payload its content.
const (
	mediaTypeSimpleSigning = "application/vnd.dev.cosign.simplesigning.v1+json"
	annotationSignature    = "dev.cosignproject.cosign/signature"
	tagSuffix              = ".sig"
)

// maxManifest bounds the manifest of signatures read, in bytes, as readers do.
const maxManifest = 4 << 20

// tagAttempts is how often the tag is written when others write it too.
const tagAttempts = 5

// putTag adds a signature to those under subject's tag. Where the key has signed
// the same payload before, nothing is written.
func putTag(ctx context.Context, repo *remote.Repository, subject ocispec.Descriptor, k *key, _ Options) (ocispec.Descriptor, error) {
	payload, err := json.Marshal(simple.SimpleContainerImage{Critical: simple.Critical{
		Identity: simple.Identity{DockerReference: repo.Reference.Registry + "/" + repo.Reference.Repository},
		Image:    simple.Image{DockerManifestDigest: subject.Digest.String()},
		Type:     simple.CosignSignatureType,
	}})
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	// SHA-256 whatever the key: the versions that look here know nothing else.
	signer, err := signature.LoadSignerVerifier(k.private, crypto.SHA256)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	made, err := signer.SignMessage(bytes.NewReader(payload))
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	layer := ocispec.Descriptor{
		MediaType: mediaTypeSimpleSigning, Digest: digest.FromBytes(payload), Size: int64(len(payload)),
		Annotations: map[string]string{annotationSignature: base64.StdEncoding.EncodeToString(made)},
	}
	if err := pushBlob(ctx, repo, layer, payload); err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("push payload %s: %w", layer.Digest, err)
	}
	tag := subject.Digest.Algorithm().String() + "-" + subject.Digest.Encoded() + tagSuffix
	mine := func(l ocispec.Descriptor) bool { return l.Digest == layer.Digest && verifies(signer, l, payload) }
	for range tagAttempts {
		d, m, err := readTag(ctx, repo, tag)
		if err != nil {
			return ocispec.Descriptor{}, fmt.Errorf("read tag %s: %w", tag, err)
		}
		if slices.ContainsFunc(m.Layers, mine) {
			return d, nil
		}
		m.Layers = append(m.Layers, layer)
		if err := writeTag(ctx, repo, tag, m); err != nil {
			return ocispec.Descriptor{}, fmt.Errorf("write tag %s: %w", tag, err)
		}
	}
	return ocispec.Descriptor{}, fmt.Errorf("write tag %s: others overwrite it each time", tag)
}

// verifies tells whether a layer's signature is the signer's.
func verifies(signer signature.Verifier, l ocispec.Descriptor, payload []byte) bool {
	made, err := base64.StdEncoding.DecodeString(l.Annotations[annotationSignature])
	return err == nil && signer.VerifySignature(bytes.NewReader(made), bytes.NewReader(payload)) == nil
}

// readTag returns the manifest of signatures under tag, an empty one where there is
// none. What is not such a manifest belongs to somebody else and is never
// overwritten.
func readTag(ctx context.Context, repo *remote.Repository, tag string) (ocispec.Descriptor, *ocispec.Manifest, error) {
	m := &ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	d, body, err := repo.Manifests().FetchReference(ctx, tag)
	if errors.Is(err, errdef.ErrNotFound) {
		return d, m, nil
	}
	if err != nil {
		return d, nil, err
	}
	defer body.Close()
	if d.MediaType != ocispec.MediaTypeImageManifest || d.Size > maxManifest {
		return d, nil, fmt.Errorf("it holds a %s of %d bytes, not signatures", d.MediaType, d.Size)
	}
	raw, err := content.ReadAll(body, d)
	if err != nil {
		return d, nil, err
	}
	if err := json.Unmarshal(raw, m); err != nil {
		return d, nil, fmt.Errorf("decode manifest: %w", err)
	}
	for _, l := range m.Layers {
		if l.MediaType != mediaTypeSimpleSigning {
			return d, nil, fmt.Errorf("it holds a layer of type %s, not signatures alone", l.MediaType)
		}
	}
	return d, m, nil
}

// writeTag writes the manifest and its config, which says of the layers what that
// of an image would.
func writeTag(ctx context.Context, repo *remote.Repository, tag string, m *ocispec.Manifest) error {
	image := ocispec.Image{RootFS: ocispec.RootFS{Type: "layers"}}
	for _, l := range m.Layers {
		image.RootFS.DiffIDs = append(image.RootFS.DiffIDs, l.Digest) // payloads are not compressed
		image.History = append(image.History, ocispec.History{})
	}
	config, err := json.Marshal(image)
	if err != nil {
		return err
	}
	m.Config = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: digest.FromBytes(config), Size: int64(len(config))}
	if err := pushBlob(ctx, repo, m.Config, config); err != nil {
		return fmt.Errorf("push config: %w", err)
	}
	raw, err := json.Marshal(m)
	if err != nil {
		return err
	}
	d := ocispec.Descriptor{MediaType: m.MediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
	return repo.Manifests().PushReference(ctx, d, bytes.NewReader(raw), tag)
}

// pushBlob sends a blob that the registry does not have.
func pushBlob(ctx context.Context, repo *remote.Repository, d ocispec.Descriptor, raw []byte) error {
	exists, err := repo.Blobs().Exists(ctx, d)
	if err != nil || exists {
		return err
	}
	return repo.Blobs().Push(ctx, d, bytes.NewReader(raw))
}

package sigstore

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/sign"
	"oras.land/oras-go/v2/registry/remote"

	"github.com/referee-cri/referee/negotiate/publish"
)

// ArtifactTypeBundle is the type of a bundle's manifest, and the media type of its
// only layer (cosign, specs/BUNDLE_SPEC.md).
const ArtifactTypeBundle = "application/vnd.dev.sigstore.bundle.v0.3+json"

// What the statement in a bundle is (in-toto attestation 1.0; cosign 3).
const (
	statementType = "https://in-toto.io/Statement/v1"
	predicateSign = "https://sigstore.dev/cosign/sign/v1"
)

// Annotations of a bundle's manifest, which say what is in it.
const (
	annotationContent       = "dev.sigstore.bundle.content"
	annotationPredicateType = "dev.sigstore.bundle.predicateType"
)

// statement says, without a predicate, that its subject is signed.
type statement struct {
	Type          string            `json:"_type"`
	Subject       []resource        `json:"subject"`
	PredicateType string            `json:"predicateType"`
	Predicate     map[string]string `json:"predicate"`
}

type resource struct {
	Digest map[string]string `json:"digest"`
}

// putBundle attaches a bundle to subject.
func putBundle(ctx context.Context, repo *remote.Repository, subject ocispec.Descriptor, k *key, opts Options) (ocispec.Descriptor, error) {
	content, err := makeBundle(ctx, subject.Digest, k)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	config := ocispec.DescriptorEmptyJSON
	blank := config.Data
	config.Data = nil
	m := ocispec.Manifest{
		ArtifactType: ArtifactTypeBundle,
		Config:       config,
		Layers: []ocispec.Descriptor{{
			MediaType: ArtifactTypeBundle, Digest: digest.FromBytes(content), Size: int64(len(content)),
		}},
		Subject:     &subject,
		Annotations: map[string]string{annotationContent: "dsse-envelope", annotationPredicateType: predicateSign},
	}
	if !opts.Created.IsZero() {
		m.Annotations[ocispec.AnnotationCreated] = opts.Created.UTC().Format(time.RFC3339)
	}
	return publish.Attach(ctx, repo, m, blank, content)
}

// makeBundle signs a digest, and makes sure that the signature is right.
func makeBundle(ctx context.Context, d digest.Digest, k *key) ([]byte, error) {
	payload, err := json.Marshal(statement{
		Type:          statementType,
		Subject:       []resource{{Digest: map[string]string{d.Algorithm().String(): d.Encoded()}}},
		PredicateType: predicateSign,
		Predicate:     map[string]string{},
	})
	if err != nil {
		return nil, err
	}
	made, err := sign.Bundle(&sign.DSSEData{Data: payload, PayloadType: bundle.IntotoMediaType}, k,
		sign.BundleOptions{Context: ctx, TrustedRoot: k.material()})
	if err != nil {
		return nil, fmt.Errorf("make bundle: %w", err)
	}
	checked, err := bundle.NewBundle(made)
	if err != nil {
		return nil, fmt.Errorf("make bundle: %w", err)
	}
	return checked.MarshalJSON()
}

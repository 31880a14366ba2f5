package negotiate_test

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/internal/regtest"
	"github.com/referee-cri/referee/negotiate"
)

// Artifact and media types of signatures.
const (
	typeNotation      = "application/vnd.cncf.notary.signature"
	typeBundle        = "application/vnd.dev.sigstore.bundle.v0.3+json"
	typeCosign        = "application/vnd.dev.cosign.artifact.sig.v1+json"
	typeSimpleSigning = "application/vnd.dev.cosign.simplesigning.v1+json"
	cosignSignature   = "dev.cosignproject.cosign/signature"
)

// byTag is cosign's signature under a tag, as a kind of test.
const byTag negotiate.SignatureKind = "cosign tag"

var everyKind = []negotiate.SignatureKind{negotiate.SignatureNotation, negotiate.SignatureBundle, negotiate.SignatureCosign, byTag}

// statement is what keys of tests sign: a real signature in a format of our own.
type statement struct {
	Digest    digest.Digest `json:"digest"`
	Signature []byte        `json:"signature,omitempty"` // over Digest; of cosign's kind it stands in an annotation
}

// key signs.
type key struct{ private ed25519.PrivateKey }

func newKey(t *testing.T) key {
	t.Helper()
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return key{private}
}

func (k key) public() ed25519.PublicKey { return ed25519.PublicKey(k.private[ed25519.SeedSize:]) }

// signed is a signature ready to be stored.
type signed struct {
	kind    negotiate.SignatureKind
	content []byte
	layer   ocispec.Descriptor // of content; its size and digest can be made to lie
	created string
	change  func(m map[string]any)
}

func (k key) sign(t *testing.T, kind negotiate.SignatureKind, target digest.Digest) signed {
	t.Helper()
	s := signed{kind: kind, layer: ocispec.Descriptor{MediaType: "application/json"}}
	signature := ed25519.Sign(k.private, []byte(target))
	payload := statement{Digest: target, Signature: signature}
	if kind == negotiate.SignatureCosign || kind == byTag {
		payload.Signature = nil
		s.layer.MediaType, s.layer.Annotations = typeSimpleSigning, map[string]string{cosignSignature: string(signature)}
		text, err := json.Marshal(signature)
		if err != nil {
			t.Fatal(err)
		}
		s.layer.Annotations[cosignSignature] = string(text)
	}
	content, err := json.Marshal(payload)
	if err != nil {
		t.Fatal(err)
	}
	s.setContent(content)
	return s
}

func (s *signed) setContent(content []byte) {
	s.content, s.layer.Digest, s.layer.Size = content, digest.FromBytes(content), int64(len(content))
}

// attach stores the signature of its kind for subject, with further layers.
func (s signed) attach(t *testing.T, reg *regtest.Registry, repo string, subject ocispec.Descriptor, more ...signed) ocispec.Descriptor {
	t.Helper()
	layers := []ocispec.Descriptor{}
	for _, one := range append([]signed{s}, more...) {
		if one.content == nil {
			continue
		}
		if _, err := reg.PutBlob("", one.content); err != nil {
			t.Fatal(err)
		}
		layers = append(layers, one.layer)
	}
	config, err := reg.PutBlob(ocispec.MediaTypeEmptyJSON, []byte("{}"))
	if err != nil {
		t.Fatal(err)
	}
	m := map[string]any{"schemaVersion": 2, "mediaType": ocispec.MediaTypeImageManifest, "config": config, "layers": layers}
	if s.created != "" {
		m["annotations"] = map[string]string{ocispec.AnnotationCreated: s.created}
	}
	tag := ""
	if s.kind == byTag {
		tag = tagOf(subject.Digest) + ".sig"
	} else {
		m["subject"] = ocispec.Descriptor{MediaType: subject.MediaType, Digest: subject.Digest, Size: subject.Size}
		m["artifactType"] = map[negotiate.SignatureKind]string{
			negotiate.SignatureNotation: typeNotation, negotiate.SignatureBundle: typeBundle, negotiate.SignatureCosign: typeCosign,
		}[s.kind]
	}
	if s.change != nil {
		s.change(m)
	}
	d, err := reg.PutJSON(repo, tag, ocispec.MediaTypeImageManifest, m)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// attach signs subject and stores the signature.
func (k key) attach(t *testing.T, reg *regtest.Registry, repo string, kind negotiate.SignatureKind, subject ocispec.Descriptor) ocispec.Descriptor {
	t.Helper()
	return k.sign(t, kind, subject.Digest).attach(t, reg, repo, subject)
}

// store is a trust store that knows this key, for kinds (none: all).
func (k key) store(name string, kinds ...negotiate.SignatureKind) *trustStore {
	return &trustStore{name: name, key: k.public(), kinds: kinds}
}

// trustStore verifies statements.
type trustStore struct {
	name         string
	key          ed25519.PublicKey
	kinds        []negotiate.SignatureKind
	repositories string // prefix of those the key may sign for
	expired      bool
}

var _ negotiate.Verifier = (*trustStore)(nil)

func (s *trustStore) Name() string { return s.name }

func (s *trustStore) Accepts(kind negotiate.SignatureKind) bool {
	return len(s.kinds) == 0 || slices.Contains(s.kinds, kind)
}

func (s *trustStore) Verify(_ context.Context, target negotiate.Target, signature negotiate.Signature) (negotiate.Signer, error) {
	var none negotiate.Signer
	var said statement
	if err := json.Unmarshal(signature.Content, &said); err != nil {
		return none, fmt.Errorf("decode statement: %w", err) // SignatureInvalid is what is made of it
	}
	if signature.Kind == negotiate.SignatureCosign {
		if err := json.Unmarshal([]byte(signature.Annotations[cosignSignature]), &said.Signature); err != nil {
			return none, fmt.Errorf("decode signature: %w", err)
		}
	}
	switch {
	case said.Digest != target.Descriptor.Digest:
		return none, reason.Errorf(reason.SignatureInvalid, "it is of %s", said.Digest)
	case len(said.Signature) != ed25519.SignatureSize:
		return none, errors.New("signature has a wrong length")
	case !ed25519.Verify(s.key, []byte(said.Digest), said.Signature):
		return none, reason.Errorf(reason.SignatureUntrusted, "no trusted key made it")
	case s.expired:
		return none, reason.Errorf(reason.SignatureUntrusted, "the key has expired")
	case !strings.HasPrefix(target.Repository, s.repositories):
		return none, reason.Errorf(reason.SignatureUntrusted, "the key may not sign for %s", target.Repository)
	}
	return negotiate.Signer{Identity: string(digest.FromBytes(s.key))}, nil
}

// wantSignatures is a policy by name "prod".
func wantSignatures(verifiers ...negotiate.Verifier) negotiate.Policy {
	return negotiate.Uniform(negotiate.Rules{Name: "prod", RequireSignature: true, Verifiers: verifiers})
}

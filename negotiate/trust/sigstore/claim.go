package sigstore

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"
	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/verify"

	"github.com/referee-cri/referee/negotiate"
)

// maxContent bounds a bundle or payload, and all annotations together, in bytes. A
// bundle with certificate, log entry and timestamp is some 10 KB.
const maxContent = 1 << 20

// PredicateSign is the predicate type of an in-toto statement that is a signature
// (cosign 3). Others are attestations.
const PredicateSign = "https://sigstore.dev/cosign/sign/v1"

// statementTypes is how the types of in-toto statements begin, before the version.
const statementTypes = "https://in-toto.io/Statement/"

// payloadTypeStatement is the DSSE payload type of in-toto statements.
const payloadTypeStatement = "application/vnd.in-toto+json"

// claim is a signature that says of itself to be of the target. Nothing of it is
// verified yet.
type claim struct {
	entity *bundle.Bundle
	digest digest.Digest // of the target
	// payload is what must be signed, byte for byte. nil: the digest is, directly
	// or in the statement of an envelope.
	payload []byte
}

// open reads a signature and refuses what is not one of target.
func (m *material) open(target negotiate.Target, s negotiate.Signature) (*claim, error) {
	beside := 0
	for name, value := range s.Annotations {
		beside += len(name) + len(value)
	}
	if len(s.Content) > maxContent || beside > maxContent {
		return nil, fmt.Errorf("read signature: it is larger than %d bytes", maxContent)
	}
	if err := target.Descriptor.Digest.Validate(); err != nil {
		return nil, fmt.Errorf("read target: %w", err)
	}
	switch s.Kind {
	case negotiate.SignatureBundle:
		return openBundle(target, s)
	case negotiate.SignatureCosign:
		return m.openSimple(target, s)
	default:
		return nil, fmt.Errorf("read signature: no kind of Sigstore's: %s", s.Kind)
	}
}

// openBundle reads a Sigstore bundle, whose content is a signature of the target's
// bytes or a signed statement about them.
func openBundle(target negotiate.Target, s negotiate.Signature) (*claim, error) {
	b := new(bundle.Bundle)
	if err := b.UnmarshalJSON(s.Content); err != nil {
		return nil, fmt.Errorf("read bundle: %w", err)
	}
	want := target.Descriptor.Digest
	var err error
	switch content := b.GetContent().(type) {
	case *protobundle.Bundle_DsseEnvelope:
		err = statementOf(want, content.DsseEnvelope.GetPayloadType(), content.DsseEnvelope.GetPayload())
	case *protobundle.Bundle_MessageSignature:
		err = messageOf(want, content.MessageSignature.GetMessageDigest().GetDigest())
	}
	if err != nil {
		return nil, err
	}
	return &claim{entity: b, digest: want}, nil
}

// statementOf checks that a statement is a signature of want. The payload's exact
// bytes are what the envelope's signature is over.
func statementOf(want digest.Digest, payloadType string, payload []byte) error {
	if payloadType != payloadTypeStatement {
		return fmt.Errorf("read bundle: its envelope holds %q, not an in-toto statement", payloadType)
	}
	var statement struct {
		Type          string `json:"_type"`
		PredicateType string `json:"predicateType"`
		Subject       []struct {
			Digest map[string]string `json:"digest"`
		} `json:"subject"`
	}
	if err := json.Unmarshal(payload, &statement); err != nil {
		return fmt.Errorf("read in-toto statement: %w", err)
	}
	if !strings.HasPrefix(statement.Type, statementTypes) {
		return fmt.Errorf("read in-toto statement: its type is %q", statement.Type)
	}
	if statement.PredicateType != PredicateSign {
		return fmt.Errorf("it is an attestation of type %q, which vouches for what it states, not for the image", statement.PredicateType)
	}
	for _, subject := range statement.Subject {
		if strings.EqualFold(subject.Digest[want.Algorithm().String()], want.Encoded()) {
			return nil
		}
	}
	return fmt.Errorf("it is a signature of something else than %s", want)
}

// messageOf checks that a message's digest, a hint outside the signature, is want.
func messageOf(want digest.Digest, got []byte) error {
	if hex.EncodeToString(got) != want.Encoded() {
		return fmt.Errorf("it is a signature of something else than %s", want)
	}
	return nil
}

// artifact is what sigstore-go must find signed. Made anew for each attempt: it may
// hold a reader.
func (c *claim) artifact() verify.ArtifactPolicyOption {
	if c.payload != nil {
		return verify.WithArtifact(bytes.NewReader(c.payload))
	}
	d := c.artifactDigest()
	return verify.WithArtifactDigest(d.Algorithm, d.Digest)
}

// artifactDigest is the target's digest as sigstore-go takes it.
func (c *claim) artifactDigest() verify.ArtifactDigest {
	raw, _ := hex.DecodeString(c.digest.Encoded()) // validated in open
	return verify.ArtifactDigest{Algorithm: c.digest.Algorithm().String(), Digest: raw}
}

// overDigest tells whether the signature must be verified without the bytes that
// were signed, with their digest alone.
func (c *claim) overDigest() bool { return c.payload == nil && c.entity.GetMessageSignature() != nil }

// hint is the name of the signing key, "" if there is none.
func (c *claim) hint() string { return c.entity.GetVerificationMaterial().GetPublicKey().GetHint() }

package sigstore

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/distribution/reference"
	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore/pkg/signature/payload"

	"github.com/referee-cri/referee/negotiate"
)

// Annotations of a simple signing layer (cosign, specs/SIGNATURE_SPEC.md). The
// certificate's chain, also there, is not read: what counts is the trusted root's.
const (
	annotationSignature   = "dev.cosignproject.cosign/signature"   // base64
	annotationCertificate = "dev.sigstore.cosign/certificate"      // PEM
	annotationLogEntry    = "dev.sigstore.cosign/bundle"           // JSON, see rekorBundle
	annotationTimestamp   = "dev.sigstore.cosign/rfc3161timestamp" // JSON, see rfc3161
	mediaTypeBundle01     = "application/vnd.dev.sigstore.bundle+json;version=0.1"
)

// rekorBundle is a log entry as cosign keeps it: what the log promised to include.
type rekorBundle struct {
	SignedEntryTimestamp []byte
	Payload              struct {
		Body           []byte `json:"body"`
		IntegratedTime int64  `json:"integratedTime"`
		LogIndex       int64  `json:"logIndex"`
		LogID          string `json:"logID"` // hexadecimal
	}
}

// rfc3161 is a timestamp as cosign keeps it.
type rfc3161 struct {
	SignedRFC3161Timestamp []byte
}

// openSimple reads cosign's simple signing: a payload that names what is signed,
// everything else beside it. It becomes a bundle, so that there is one way to
// verify. The version is 0.1, the last that takes a log's mere promise.
func (m *material) openSimple(target negotiate.Target, s negotiate.Signature) (*claim, error) {
	if err := m.payloadOf(target, s.Content); err != nil {
		return nil, err
	}
	made, err := base64.StdEncoding.DecodeString(s.Annotations[annotationSignature])
	if err == nil && len(made) == 0 {
		err = fmt.Errorf("there is no annotation %s", annotationSignature)
	}
	if err != nil {
		return nil, fmt.Errorf("read signature: %w", err)
	}
	evidence, err := evidenceOf(s.Annotations)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(s.Content)
	b, err := bundle.NewBundle(&protobundle.Bundle{
		MediaType:            mediaTypeBundle01,
		VerificationMaterial: evidence,
		Content: &protobundle.Bundle_MessageSignature{MessageSignature: &protocommon.MessageSignature{
			MessageDigest: &protocommon.HashOutput{Algorithm: protocommon.HashAlgorithm_SHA2_256, Digest: sum[:]},
			Signature:     made,
		}},
	})
	if err != nil {
		return nil, fmt.Errorf("read signature: %w", err)
	}
	return &claim{entity: b, digest: target.Descriptor.Digest, payload: s.Content}, nil
}

// payloadOf checks that a payload is of target.
func (m *material) payloadOf(target negotiate.Target, content []byte) error {
	var p payload.SimpleContainerImage
	if err := json.Unmarshal(content, &p); err != nil {
		return fmt.Errorf("read signed payload: %w", err)
	}
	if p.Critical.Type != payload.CosignSignatureType {
		return fmt.Errorf("read signed payload: its type is %q, not %q", p.Critical.Type, payload.CosignSignatureType)
	}
	if p.Critical.Image.DockerManifestDigest != target.Descriptor.Digest.String() {
		return fmt.Errorf("it is a signature of something else than %s", target.Descriptor.Digest)
	}
	if !m.checkReference {
		return nil
	}
	named, err := reference.ParseNormalizedNamed(p.Critical.Identity.DockerReference)
	if err != nil {
		return fmt.Errorf("read signed reference: %w", err)
	}
	here, err := reference.ParseNormalizedNamed(target.Repository)
	if err != nil {
		return fmt.Errorf("read repository of target: %w", err)
	}
	if named.Name() != here.Name() {
		return fmt.Errorf("it is a signature for repository %s, not for %s", named.Name(), here.Name())
	}
	return nil
}

// evidenceOf turns cosign's annotations into what bundles say in one place.
func evidenceOf(annotations map[string]string) (*protobundle.VerificationMaterial, error) {
	evidence := &protobundle.VerificationMaterial{
		Content: &protobundle.VerificationMaterial_PublicKey{PublicKey: &protocommon.PublicKeyIdentifier{}},
	}
	if text := annotations[annotationCertificate]; text != "" {
		block, _ := pem.Decode([]byte(text))
		if block == nil || block.Type != "CERTIFICATE" {
			return nil, errors.New("read certificate: it is not in PEM")
		}
		evidence.Content = &protobundle.VerificationMaterial_Certificate{Certificate: &protocommon.X509Certificate{RawBytes: block.Bytes}}
	}
	if text := annotations[annotationLogEntry]; text != "" {
		entry, err := logEntry([]byte(text))
		if err != nil {
			return nil, fmt.Errorf("read log entry: %w", err)
		}
		evidence.TlogEntries = []*protorekor.TransparencyLogEntry{entry}
	}
	if text := annotations[annotationTimestamp]; text != "" {
		var stamp rfc3161
		if err := json.Unmarshal([]byte(text), &stamp); err != nil {
			return nil, fmt.Errorf("read timestamp: %w", err)
		}
		evidence.TimestampVerificationData = &protobundle.TimestampVerificationData{
			Rfc3161Timestamps: []*protocommon.RFC3161SignedTimestamp{{SignedTimestamp: stamp.SignedRFC3161Timestamp}},
		}
	}
	return evidence, nil
}

func logEntry(text []byte) (*protorekor.TransparencyLogEntry, error) {
	var kept rekorBundle
	if err := json.Unmarshal(text, &kept); err != nil {
		return nil, err
	}
	id, err := hex.DecodeString(kept.Payload.LogID)
	if err != nil {
		return nil, fmt.Errorf("log id: %w", err)
	}
	var body struct {
		Kind       string `json:"kind"`
		APIVersion string `json:"apiVersion"`
	}
	if err := json.Unmarshal(kept.Payload.Body, &body); err != nil {
		return nil, fmt.Errorf("body: %w", err)
	}
	return &protorekor.TransparencyLogEntry{
		LogIndex:          kept.Payload.LogIndex,
		LogId:             &protocommon.LogId{KeyId: id},
		KindVersion:       &protorekor.KindVersion{Kind: body.Kind, Version: body.APIVersion},
		IntegratedTime:    kept.Payload.IntegratedTime,
		InclusionPromise:  &protorekor.InclusionPromise{SignedEntryTimestamp: kept.SignedEntryTimestamp},
		CanonicalizedBody: kept.Payload.Body,
	}, nil
}

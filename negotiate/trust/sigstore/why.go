package sigstore

import (
	"bytes"
	"crypto/x509"
	"encoding/hex"
	"io"
	"time"

	"github.com/sigstore/sigstore-go/pkg/fulcio/certificate"
	"github.com/sigstore/sigstore-go/pkg/verify"

	"github.com/referee-cri/referee/internal/reason"
)

// Why a verdict was no. The verifier's error says so in words only; the checks are
// made again one by one, from the signer outwards, to find which it was. Nothing
// here turns a no into a yes.

// whyCertificate explains err, the refusal of a signature by leaf.
func (a *attempt) whyCertificate(leaf *x509.Certificate, trusted verify.CertificateIdentities, err error) error {
	summary, summaryErr := certificate.SummarizeCertificate(leaf)
	if summaryErr != nil {
		return reason.Errorf(reason.SignatureInvalid, "read certificate: %w", summaryErr)
	}
	if _, mismatch := trusted.Verify(summary); mismatch != nil {
		return reason.Errorf(reason.SignatureUntrusted, "identity: %q of issuer %q is not trusted: %w",
			summary.SubjectAlternativeName, summary.Issuer, mismatch)
	}
	for _, at := range a.loggedAt() {
		if at.Before(leaf.NotBefore) || at.After(leaf.NotAfter) {
			return reason.Errorf(reason.SignatureUntrusted, "certificate: not valid at %s, when the log says it was used: %w", rfc3339(at), err)
		}
	}
	times, evidence := a.times()
	if evidence != nil {
		return a.whyEvidence(err)
	}
	for _, at := range times {
		if _, chain := verify.VerifyLeafCertificate(at.Timestamp, leaf, a.trusted); chain == nil {
			continue
		}
		if at.Timestamp.Before(leaf.NotBefore) || at.Timestamp.After(leaf.NotAfter) {
			return reason.Errorf(reason.SignatureUntrusted, "certificate: valid from %s to %s, not at %s (%s): %w",
				rfc3339(leaf.NotBefore), rfc3339(leaf.NotAfter), rfc3339(at.Timestamp), at.Type, err)
		}
		return reason.Errorf(reason.SignatureUntrusted, "certificate: not issued by an authority that the trusted root names for %s: %w", rfc3339(at.Timestamp), err)
	}
	if a.signed() {
		return reason.Errorf(reason.SignatureUntrusted, "certificate: %w", err) // the certificate transparency log is left
	}
	return reason.Errorf(reason.SignatureInvalid, "signature: %w", err)
}

// whyEvidence explains err, where a log entry or timestamp does not suffice.
func (a *attempt) whyEvidence(err error) error {
	if _, log := a.verifier.VerifyTransparencyLogInclusion(a.claim.entity); log != nil {
		switch entries, known := a.logEntries(); {
		case entries == 0:
			return reason.Errorf(reason.SignatureUntrusted, "transparency log: there is no entry, and one is required: %w", err)
		case known == 0:
			return reason.Errorf(reason.SignatureUntrusted, "transparency log: the entry is of a log that the trusted root does not name: %w", err)
		default:
			return reason.Errorf(reason.SignatureInvalid, "transparency log: %w", err)
		}
	}
	if _, times := a.times(); times != nil {
		return reason.Errorf(reason.SignatureUntrusted, "timestamp: %w", err)
	}
	return reason.Errorf(reason.SignatureInvalid, "signature: %w", err)
}

// signed tells whether the signature itself fits its key or certificate, and is of
// what it should be.
func (a *attempt) signed() bool {
	made, err := a.claim.entity.SignatureContent()
	if err != nil {
		return false
	}
	by, err := a.claim.entity.VerificationContent()
	if err != nil {
		return false
	}
	if a.claim.payload != nil {
		return verify.VerifySignatureWithArtifacts(made, by, a.trusted, []io.Reader{bytes.NewReader(a.claim.payload)}) == nil
	}
	return verify.VerifySignatureWithArtifactDigests(made, by, a.trusted, []verify.ArtifactDigest{a.claim.artifactDigest()}) == nil
}

// times are the moments, each proven, at which the signature existed.
func (a *attempt) times() ([]verify.TimestampVerificationResult, error) {
	logged, err := a.verifier.VerifyTransparencyLogInclusion(a.claim.entity)
	if err != nil {
		return nil, err
	}
	return a.verifier.VerifyObserverTimestamps(a.claim.entity, logged)
}

// logEntries counts the log entries, and those of logs that the trusted root names.
func (a *attempt) logEntries() (entries, known int) {
	logs := a.trusted.RekorLogs()
	for _, entry := range a.claim.entity.GetVerificationMaterial().GetTlogEntries() {
		entries++
		if _, ok := logs[hex.EncodeToString(entry.GetLogId().GetKeyId())]; ok {
			known++
		}
	}
	return entries, known
}

// loggedAt are the times that log entries claim for themselves.
func (a *attempt) loggedAt() []time.Time {
	var times []time.Time
	for _, entry := range a.claim.entity.GetVerificationMaterial().GetTlogEntries() {
		if at := entry.GetIntegratedTime(); at != 0 {
			times = append(times, time.Unix(at, 0))
		}
	}
	return times
}

func rfc3339(t time.Time) string { return t.UTC().Format(time.RFC3339) }

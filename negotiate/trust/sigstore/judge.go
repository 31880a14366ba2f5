package sigstore

import (
	"crypto/x509"
	"errors"
	"fmt"

	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/referee-cri/referee/internal/reason"
)

// verify returns who made the signature, as people would name them.
func (m *material) verify(c *claim) (string, error) {
	content, err := c.entity.VerificationContent()
	if err != nil {
		return "", reason.Errorf(reason.SignatureInvalid, "read signer: %w", err)
	}
	if leaf := content.Certificate(); leaf != nil {
		return m.verifyCertificate(c, leaf)
	}
	return m.verifyKey(c)
}

// verifyCertificate verifies a signature made with a certificate.
func (m *material) verifyCertificate(c *claim, leaf *x509.Certificate) (string, error) {
	if len(m.identities) == 0 {
		return "", reason.Errorf(reason.SignatureUntrusted, "it is signed with a certificate, and no certificate identity is trusted here")
	}
	a := &attempt{claim: c, trusted: m.root, options: m.certificateOptions(c)}
	for _, id := range m.identities {
		a.policy = append(a.policy, verify.WithCertificateIdentity(id))
	}
	result, err := a.run()
	if err != nil {
		return "", a.whyCertificate(leaf, m.identities, err)
	}
	signer := result.Signature.Certificate
	return signer.Issuer + " " + signer.SubjectAlternativeName, nil
}

// verifyKey verifies a signature made with a key.
func (m *material) verifyKey(c *claim) (string, error) {
	if len(m.keys) == 0 {
		return "", reason.Errorf(reason.SignatureUntrusted, "it is signed with a key, and only certificates are trusted here")
	}
	hinted := false
	for _, k := range m.keys {
		for _, v := range k.verifiers {
			if _, pure := v.(*signature.ED25519Verifier); pure && c.overDigest() {
				continue // it would verify no bytes at all; sigstore-go refuses too, but not from behind a key's validity
			}
			a := &attempt{claim: c, trusted: keyed{m.root, v}, options: m.keyOptions(), policy: []verify.PolicyOption{verify.WithKey()}}
			_, err := a.run()
			if err == nil {
				return k.name(), nil
			}
			if a.signed() {
				return "", a.whyEvidence(fmt.Errorf("signed with %s: %w", k.name(), err))
			}
		}
		hinted = hinted || c.hint() == k.hint()
	}
	if hinted {
		return "", reason.Errorf(reason.SignatureInvalid, "it names a trusted key, which did not sign these bytes")
	}
	return "", reason.Errorf(reason.SignatureUntrusted, "none of the %d trusted keys made it: it is another key's, or it is broken", len(m.keys))
}

// certificateOptions are the checks of a certificate's signature. Its certificate
// must have been valid when it was used, so a time is needed: the log's or an
// authority's, wherever there is one, else now.
func (m *material) certificateOptions(c *claim) []verify.VerifierOption {
	evidence := c.entity.GetVerificationMaterial()
	stamped := len(evidence.GetTimestampVerificationData().GetRfc3161Timestamps()) > 0
	logged := len(evidence.GetTlogEntries()) > 0
	options := []verify.VerifierOption{verify.WithoutStatementPredicate()}
	if m.requireLog || logged && !stamped {
		options = append(options, verify.WithTransparencyLog(1))
	}
	switch {
	case m.requireTimestamp:
		options = append(options, verify.WithSignedTimestamps(1))
	case m.requireLog || logged || stamped:
		options = append(options, verify.WithObserverTimestamps(1))
	default:
		options = append(options, verify.WithCurrentTime())
	}
	if len(m.root.CTLogs()) > 0 {
		options = append(options, verify.WithSignedCertificateTimestamps(1))
	}
	return options
}

// keyOptions are the checks of a key's signature. Keys do not expire.
func (m *material) keyOptions() []verify.VerifierOption {
	options := []verify.VerifierOption{verify.WithoutStatementPredicate()}
	if m.requireLog {
		options = append(options, verify.WithTransparencyLog(1))
	}
	if m.requireTimestamp {
		return append(options, verify.WithSignedTimestamps(1))
	}
	return append(options, verify.WithNoObserverTimestamps())
}

// attempt is one way to verify a claim.
type attempt struct {
	claim   *claim
	trusted root.TrustedMaterial
	options []verify.VerifierOption
	policy  []verify.PolicyOption

	verifier *verify.Verifier
}

// run is the verdict. Everything that explains it comes after.
func (a *attempt) run() (*verify.VerificationResult, error) {
	var err error
	if a.verifier, err = verify.NewVerifier(a.trusted, a.options...); err != nil {
		return nil, fmt.Errorf("set up verifier: %w", err)
	}
	result, err := a.verifier.Verify(a.claim.entity, verify.NewPolicy(a.claim.artifact(), a.policy...))
	if err == nil && result.Signature == nil {
		err = errors.New("nothing was verified")
	}
	return result, err
}

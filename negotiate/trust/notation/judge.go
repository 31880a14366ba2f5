package notation

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/notaryproject/notation-core-go/signature"
	notationgo "github.com/notaryproject/notation-go"
	"github.com/notaryproject/notation-go/verifier"
	"github.com/notaryproject/notation-go/verifier/trustpolicy"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/negotiate"
)

// verdict is what came out for one signature.
type verdict struct {
	statement string // of the trust policy, by name
	identity  string
	tolerated []*notationgo.ValidationResult // checks that failed and that the statement only logs
}

// judge has notation-go verify a signature, and sees to what it leaves open.
func (t *trust) judge(ctx context.Context, target negotiate.Target, s negotiate.Signature) (verdict, error) {
	reference := target.Repository + "@" + target.Descriptor.Digest.String()
	statement, err := t.policy.GetApplicableTrustPolicy(reference)
	if err != nil {
		return verdict{}, reason.Wrap(reason.SignatureUntrusted, fmt.Errorf("scope: %w", err))
	}
	v := verdict{statement: statement.Name}
	if err := vouches(statement); err != nil {
		return v, reason.Wrap(reason.SignatureUntrusted, err)
	}
	outcome, err := t.verifiers[statement.Name].Verify(ctx, target.Descriptor, s.Content, notationgo.VerifierVerifyOptions{
		ArtifactReference: reference, SignatureMediaType: s.MediaType,
	})
	if err == nil {
		err = understood(&outcome.EnvelopeContent.SignerInfo)
	} else {
		err = explain(outcome, target.Descriptor, err)
	}
	if outcome != nil {
		v.tolerated = failures(outcome, trustpolicy.ActionLog)
	}
	if err != nil {
		return v, fmt.Errorf("trust policy statement %q: %w", statement.Name, err)
	}
	signer := &outcome.EnvelopeContent.SignerInfo
	store, err := t.stores.trusting(statement.TrustStores, signer)
	if err != nil {
		return v, reason.Errorf(reason.SignatureUntrusted, "trust policy statement %q: authenticity: %w", statement.Name, err)
	}
	v.identity = fmt.Sprintf("%s (%s)", signer.CertificateChain[0].Subject, store)
	return v, nil
}

// vouches says no for statements that let signatures of anybody pass.
func vouches(statement *trustpolicy.TrustPolicy) error {
	level, err := statement.SignatureVerification.GetVerificationLevel()
	if err != nil {
		return fmt.Errorf("trust policy statement %q: %w", statement.Name, err)
	}
	if level.Enforcement[trustpolicy.TypeAuthenticity] == trustpolicy.ActionEnforce {
		return nil
	}
	return fmt.Errorf("trust policy statement %q has level %q with authenticity %q: it lets signatures of anybody pass, so none of them vouches for anything",
		statement.Name, statement.SignatureVerification.VerificationLevel, level.Enforcement[trustpolicy.TypeAuthenticity])
}

// understood says no to a signature that wants something of its verifier which is
// not done here. notation-go looks at that only where it runs a plugin.
func understood(signer *signature.SignerInfo) error {
	for _, a := range signer.SignedAttributes.ExtendedAttributes {
		if a.Critical {
			return reason.Errorf(reason.SignatureUntrusted, "authenticity: the signature has the critical attribute %q, which is not understood here", fmt.Sprint(a.Key))
		}
	}
	return nil
}

// explain says what err means, notation-go's refusal with what it had found out.
func explain(outcome *notationgo.VerificationOutcome, want ocispec.Descriptor, err error) error {
	if outcome == nil {
		return reason.Wrap(reason.SignatureUntrusted, err)
	}
	if failed := failures(outcome, trustpolicy.ActionEnforce); len(failed) > 0 {
		check := failed[0]
		code := reason.SignatureUntrusted
		if check.Type == trustpolicy.TypeIntegrity {
			code = reason.SignatureInvalid
		}
		return reason.Errorf(code, "%s: %w", checkName(check.Type), check.Error)
	}
	if outcome.EnvelopeContent == nil {
		return reason.Errorf(reason.SignatureInvalid, "integrity: %w", err)
	}
	if a, missing := outcome.EnvelopeContent.SignerInfo.ExtendedAttribute(verifier.HeaderVerificationPlugin); missing == nil {
		return reason.Errorf(reason.SignatureUntrusted, "authenticity: the signature asks to be verified by notation's plugin %q, and plugins are not run here", fmt.Sprint(a.Value))
	}
	var payload struct {
		TargetArtifact ocispec.Descriptor `json:"targetArtifact"`
	}
	if json.Unmarshal(outcome.EnvelopeContent.Payload.Content, &payload) == nil && !content.Equal(payload.TargetArtifact, want) {
		got := payload.TargetArtifact
		return reason.Errorf(reason.SignatureInvalid, "integrity: the signature is of something else: %s (%s, %d bytes), not %s (%s, %d bytes)",
			got.Digest, got.MediaType, got.Size, want.Digest, want.MediaType, want.Size)
	}
	return reason.Errorf(reason.SignatureInvalid, "integrity: %w", err)
}

// failures are the failed checks to which the statement gives this action.
func failures(outcome *notationgo.VerificationOutcome, action trustpolicy.ValidationAction) []*notationgo.ValidationResult {
	return slices.DeleteFunc(slices.Clone(outcome.VerificationResults), func(r *notationgo.ValidationResult) bool {
		return r.Error == nil || r.Action != action
	})
}

// checkName is the name of a check for people.
func checkName(check trustpolicy.ValidationType) string {
	if check == trustpolicy.TypeAuthenticTimestamp {
		return "timestamp"
	}
	return string(check)
}

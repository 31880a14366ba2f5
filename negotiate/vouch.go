package negotiate

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/zap"

	"github.com/referee-cri/referee/internal/contain"
	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/internal/tracing"
)

// vouch has somebody whom the rules trust vouch for c, or says why nobody does.
func (j *judge) vouch(ctx context.Context, c *Candidate) (err error) {
	ctx, span := tracing.Start(ctx, "verify", tracing.KeyFormat.String(c.Format))
	defer func() { span.End(err) }()
	if len(j.rules.Verifiers) == 0 {
		return reason.Errorf(reason.Unsigned, "%s wants a signature and names nobody to trust", j.rules.said())
	}
	var all gathered // but for the signatures
	var refused error
	for _, d := range c.signable {
		found := j.signaturesOf(ctx, d)
		signer, proof, err := j.verify(ctx, d, found.signatures)
		if err == nil && signer != nil {
			c.Signer, c.Proof = signer, proof
			return nil
		}
		refused = worse(refused, err)
		all.strange = cmp.Or(all.strange, found.strange)
		all.problem = cmp.Or(all.problem, found.problem)
	}
	switch {
	case refused != nil:
		return refused
	case all.problem != nil:
		return fmt.Errorf("read its signatures: %w", all.problem)
	case all.strange != "":
		return reason.Errorf(reason.Unsigned, "it is signed with %s only, which no trust store of %s accepts", all.strange, j.rules.said())
	case !c.Bound && j.listsSignature(ctx, c.Subject):
		return reason.Errorf(reason.Unsigned, "the image is signed, this form of it is not: a signature of the image does not cover what is attached to it")
	default:
		return reason.Errorf(reason.Unsigned, "%s wants a signature and it has none", j.rules.said())
	}
}

// verify returns who of those trusted has signed d, nil if there is no signature.
func (j *judge) verify(ctx context.Context, d ocispec.Descriptor, signatures []Signature) (*Signer, *Signature, error) {
	target := Target{
		Repository: j.img.Repository,
		Descriptor: ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size},
	}
	var refused error
	for _, s := range signatures {
		for _, v := range j.rules.Verifiers {
			if !v.Accepts(s.Kind) {
				continue
			}
			var signer Signer
			err := contain.Panic(j.log(), "verifying a signature", func() (err error) {
				signer, err = v.Verify(ctx, target, s)
				return err
			})
			if err == nil {
				signer.Trust, signer.Kind, signer.Target, signer.Signature = v.Name(), s.Kind, target, s.Artifact.Digest
				return &signer, &s, nil
			}
			if reason.Of(err) == reason.Internal { // the verifier did not say
				err = reason.Wrap(reason.SignatureInvalid, err)
			}
			refused = worse(refused, fmt.Errorf("trust store %s: %w", v.Name(), err))
		}
	}
	return nil, nil, refused
}

// log is where a verifier's defects go; a judge of kept signatures has no negotiator.
func (j *judge) log() *zap.Logger {
	if j.n == nil {
		return zap.NewNop()
	}
	return j.n.log
}

// worse keeps what tells more: a right signature of somebody not trusted rather
// than a broken one, else the first.
func worse(a, b error) error {
	if a == nil || b != nil && reason.Of(a) != reason.SignatureUntrusted && reason.Of(b) == reason.SignatureUntrusted {
		return b
	}
	return a
}

// listsSignature tells whether the list by which a form was found, that of what
// is attached to subject, shows a signature of the subject.
func (j *judge) listsSignature(ctx context.Context, subject digest.Digest) bool {
	return slices.ContainsFunc(j.attached(ctx, subject).entries, func(e entry) bool { return signatureKind(e.artifactType) != "" })
}

// StillVouched judges a signature again that vouched for a form before: by the
// rules of now, for an image in repository. It returns an error that says why it
// does not count.
func (r *Rules) StillVouched(ctx context.Context, repository string, signer *Signer, proof *Signature) error {
	if signer == nil || proof == nil {
		return reason.Errorf(reason.Unsigned, "nobody signed it")
	}
	j := &judge{rules: r, img: &Image{Repository: repository}}
	found, _, err := j.verify(ctx, signer.Target.Descriptor, []Signature{*proof})
	if err == nil && found == nil {
		err = reason.Errorf(reason.SignatureUntrusted, "no trust store of %s accepts %s signatures", r.said(), proof.Kind)
	}
	return err
}

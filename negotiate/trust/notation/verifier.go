package notation

import (
	"cmp"
	"context"
	"fmt"

	"go.uber.org/zap"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/negotiate"
	"github.com/referee-cri/referee/negotiate/trust/reload"
)

// Options says where a trust store lies.
type Options struct {
	// PolicyFile is a trust policy, as in notation's trustpolicy.json or
	// trustpolicy.oci.json.
	PolicyFile string
	// TrustStoreDir is the directory that holds x509/ca, x509/signingAuthority and
	// x509/tsa, each with one directory of certificate files for each named store:
	// notation's truststore. Symbolic links are followed, as mounted secrets are
	// made of them; names that begin with a dot are passed over.
	TrustStoreDir string
	// CRLDir is a directory of revocation lists: DER, PEM, or the files of
	// notation's CRL cache. Empty: there are none.
	CRLDir string
	// Logger is told of reloads and of checks that failed and are only logged.
	// nil: nobody.
	Logger *zap.Logger
}

// Verifier is one trust store. Safe for concurrent use.
type Verifier struct {
	name  string
	log   *zap.Logger
	store *reload.Store[*trust]
}

var _ negotiate.Verifier = (*Verifier)(nil)

// Load reads a trust store. Its error names the file, and the statement or member
// in it, that cannot be used. Files that change later are read again before the
// next verdict; if they cannot be used then, the trust store stays as it was and
// the log says why. While one of them is absent, it trusts nobody.
func Load(name string, opts Options) (*Verifier, error) {
	log := cmp.Or(opts.Logger, zap.NewNop()).With(zap.String("trust", name))
	store, err := reload.Load(opts.look, func() (*trust, error) { return read(opts) }, log)
	if err != nil {
		return nil, fmt.Errorf("load trust store %s: %w", name, err)
	}
	return &Verifier{name: name, log: log, store: store}, nil
}

// Name is the trust store's name in the configuration.
func (v *Verifier) Name() string { return v.name }

// Accepts tells whether signatures of this kind can count: notation's do.
func (v *Verifier) Accepts(kind negotiate.SignatureKind) bool {
	return kind == negotiate.SignatureNotation
}

// Verify returns who signed target. See negotiate.Verifier for its errors.
func (v *Verifier) Verify(ctx context.Context, target negotiate.Target, s negotiate.Signature) (signer negotiate.Signer, err error) {
	// Envelopes, certificates and timestamps go through four parsers of others.
	defer func() {
		if p := recover(); p != nil {
			signer, err = negotiate.Signer{}, reason.Errorf(reason.SignatureInvalid, "integrity: the signature breaks the parser: %v", p)
		}
	}()
	if err := ctx.Err(); err != nil {
		return negotiate.Signer{}, reason.Wrap(reason.Of(err), err)
	}
	if !v.Accepts(s.Kind) {
		return negotiate.Signer{}, reason.Errorf(reason.SignatureInvalid, "it is a %s signature, not one of notation's", s.Kind)
	}
	if err := checkBounds(s.MediaType, s.Content); err != nil {
		return negotiate.Signer{}, reason.Errorf(reason.SignatureInvalid, "integrity: %w", err)
	}
	trust, err := v.store.Current()
	if err != nil {
		return negotiate.Signer{}, err
	}
	verdict, err := trust.judge(ctx, target, s)
	for _, failure := range verdict.tolerated {
		v.log.Warn("notation check failed, which the trust policy only logs",
			zap.String("repository", target.Repository), zap.Stringer("digest", target.Descriptor.Digest),
			zap.String("statement", verdict.statement), zap.String("check", checkName(failure.Type)), zap.Error(failure.Error))
	}
	if err != nil {
		return negotiate.Signer{}, err
	}
	return negotiate.Signer{
		Trust: v.name, Kind: s.Kind, Identity: verdict.identity, Target: target, Signature: s.Artifact.Digest,
	}, nil
}

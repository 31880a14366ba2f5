package notation

import (
	"context"
	"fmt"
	"sync"

	"go.uber.org/zap"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/negotiate"
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
	name string
	opts Options
	log  *zap.Logger

	mu    sync.Mutex
	seen  string // what the files looked like when they were last read, well or not
	trust *trust // as last read well
}

var _ negotiate.Verifier = (*Verifier)(nil)

// Load reads a trust store. Its error names the file, and the statement or member
// in it, that cannot be used. Files that change later are read again before the
// next verdict; if they cannot be used then, the trust store stays as it was and
// the log says why.
func Load(name string, opts Options) (*Verifier, error) {
	v := &Verifier{name: name, opts: opts, log: opts.Logger, seen: opts.look()}
	if v.log == nil {
		v.log = zap.NewNop()
	}
	var err error
	if v.trust, err = read(opts); err != nil {
		return nil, fmt.Errorf("load trust store %s: %w", name, err)
	}
	return v, nil
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
	verdict, err := v.current().judge(ctx, target, s)
	for _, failure := range verdict.tolerated {
		v.log.Warn("notation check failed, which the trust policy only logs", zap.String("trust", v.name),
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

// current returns what the files say now, or said when they were last in order.
func (v *Verifier) current() *trust {
	v.mu.Lock()
	defer v.mu.Unlock()
	seen := v.opts.look() // before reading: a change in between is seen next time
	if seen == v.seen {
		return v.trust
	}
	v.seen = seen
	next, err := read(v.opts)
	if err != nil {
		v.log.Warn("trust store kept as it was: its files cannot be used", zap.String("trust", v.name), zap.Error(err))
		return v.trust
	}
	v.log.Info("trust store read again", zap.String("trust", v.name), zap.Int("statements", len(next.policy.TrustPolicies)))
	v.trust = next
	return next
}

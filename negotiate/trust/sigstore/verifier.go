package sigstore

import (
	"cmp"
	"context"
	"fmt"

	"go.uber.org/zap"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/negotiate"
	"github.com/referee-cri/referee/negotiate/trust/reload"
)

// Verifier is one trust store. Safe for concurrent use.
type Verifier struct {
	name  string
	store *reload.Store[*material]
}

var _ negotiate.Verifier = (*Verifier)(nil)

// Load reads a trust store. It fails on what Options.Validate finds and on a file
// that cannot be used, which it names. A file that changes later is read again; if
// it is broken then, the trust store stays as it was, and says so in the log: a
// half-written file must not stop every pull. While one is absent, it trusts
// nobody.
func Load(name string, opts Options) (*Verifier, error) {
	log := cmp.Or(opts.Logger, zap.NewNop()).With(zap.String("trust", name))
	look := func() string { return fingerprint(opts.files()) }
	store, err := reload.Load(look, func() (*material, error) { return read(opts) }, log)
	if err != nil {
		return nil, fmt.Errorf("load trust store %s: %w", name, err)
	}
	return &Verifier{name: name, store: store}, nil
}

// Name is the trust store's name in the configuration.
func (v *Verifier) Name() string { return v.name }

// Accepts tells whether signatures of this kind can count: both of Sigstore's do.
func (v *Verifier) Accepts(kind negotiate.SignatureKind) bool {
	return kind == negotiate.SignatureBundle || kind == negotiate.SignatureCosign
}

// Verify returns who signed target. See negotiate.Verifier for its errors.
func (v *Verifier) Verify(ctx context.Context, target negotiate.Target, s negotiate.Signature) (signer negotiate.Signer, err error) {
	// Log entries and timestamps are parsed by large libraries, and a registry may
	// have written them.
	defer func() {
		if p := recover(); p != nil {
			signer, err = negotiate.Signer{}, reason.Errorf(reason.SignatureInvalid, "read signature: it breaks the parser: %v", p)
		}
	}()
	if err := ctx.Err(); err != nil {
		return negotiate.Signer{}, reason.Wrap(reason.Of(err), err)
	}
	m, err := v.store.Current()
	if err != nil {
		return negotiate.Signer{}, err
	}
	c, err := m.open(target, s)
	if err != nil {
		return negotiate.Signer{}, reason.Wrap(reason.SignatureInvalid, err)
	}
	identity, err := m.verify(c)
	if err != nil {
		return negotiate.Signer{}, err
	}
	return negotiate.Signer{
		Trust: v.name, Kind: s.Kind, Identity: identity, Target: target, Signature: s.Artifact.Digest,
	}, nil
}

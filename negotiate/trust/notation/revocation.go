package notation

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"

	"github.com/notaryproject/notation-core-go/revocation"
	"github.com/notaryproject/notation-core-go/revocation/crl"
	"github.com/notaryproject/notation-core-go/revocation/purpose"
	"github.com/notaryproject/notation-core-go/revocation/result"
)

// offline tells from local lists whether certificates are revoked.
//
// The checks are notation-core-go's own. It looks for lists at the addresses that a
// certificate names; so it is shown copies of the certificates, which name the local
// lists of their issuer instead, and no OCSP server at all: there is nothing left
// that it could ask the network for.
type offline struct {
	lists   *lists
	purpose purpose.Purpose
	lenient bool // what is not known passes
}

var _ revocation.Validator = (*offline)(nil)

// ValidateContext returns what is known of each certificate of a chain, the leaf
// first. Its error says of which one nothing is known, and why; a revoked one goes
// first.
func (o *offline) ValidateContext(ctx context.Context, opts revocation.ValidateContextOptions) ([]*result.CertRevocationResult, error) {
	local := localLists{}
	chain := make([]*x509.Certificate, len(opts.CertChain))
	for i, c := range opts.CertChain {
		shown := *c
		shown.OCSPServer, shown.CRLDistributionPoints = nil, nil
		if i+1 < len(opts.CertChain) {
			shown.CRLDistributionPoints = o.addresses(c, opts.CertChain[i+1], local)
		}
		chain[i] = &shown
	}
	validator, err := revocation.NewWithOptions(revocation.Options{CRLFetcher: local, CertChainPurpose: o.purpose})
	if err != nil {
		return nil, err
	}
	opts.CertChain = chain
	results, err := validator.ValidateContext(ctx, opts)
	if err != nil {
		return nil, err
	}
	var unknown error
	for i, r := range results {
		switch r.Result {
		case result.ResultRevoked:
			return results, nil
		case result.ResultUnknown:
			unknown = fmt.Errorf("nobody here knows whether %q is revoked: %w", chain[i].Subject, causeOf(r))
			r.Result = result.ResultNonRevokable // where leniency lets it pass
		}
	}
	if o.lenient {
		unknown = nil
	}
	return results, unknown
}

// addresses makes up addresses for the lists that tell of a certificate, and enters
// these into local. An address without an entry says that something is missing.
func (o *offline) addresses(c, issuer *x509.Certificate, local localLists) []string {
	var names []string
	covered := len(c.OCSPServer) == 0 && len(c.CRLDistributionPoints) == 0 // it does not say that it could be revoked
	for _, l := range o.lists.by(issuer) {
		name := fmt.Sprintf("%s#%s", l.path, l.bundle.BaseCRL.Number)
		local[name] = answer{bundle: l.bundle}
		names = append(names, name)
		covered = covered || l.covers(c)
	}
	if covered {
		return names
	}
	name := "no list of " + issuer.Subject.String()
	local[name] = answer{missing: &missingError{issuer: issuer.Subject.String(), dir: o.lists.dir}}
	return append(names, name)
}

// missingError says that there is no list that tells of a certificate.
type missingError struct{ issuer, dir string }

func (e *missingError) Error() string {
	if e.dir == "" {
		return "no directory of revocation lists is configured, and servers on the network are not asked"
	}
	return fmt.Sprintf("there is no revocation list of its issuer %q for it in %s, and servers on the network are not asked", e.issuer, e.dir)
}

// localLists answers for made-up addresses.
type localLists map[string]answer

type answer struct {
	bundle  *crl.Bundle
	missing *missingError // where there is no bundle
}

var _ crl.Fetcher = localLists(nil)

// Fetch returns the list under a made-up address.
func (ls localLists) Fetch(_ context.Context, address string) (*crl.Bundle, error) {
	a, known := ls[address]
	switch {
	case !known:
		return nil, fmt.Errorf("there is no list %q", address)
	case a.missing != nil:
		return nil, a.missing
	default:
		return a.bundle, nil
	}
}

// causeOf is why nothing is known.
func causeOf(r *result.CertRevocationResult) error {
	for _, s := range r.ServerResults {
		if missing, ok := errors.AsType[*missingError](s.Error); ok {
			return missing // what is around it says "failed to download", and nothing is downloaded here
		}
		if s.Error != nil {
			return s.Error
		}
	}
	return errors.New("no reason is given")
}

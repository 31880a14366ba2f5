package policy

import (
	"context"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/negotiate"
)

// retryAfter is how soon a trust store that could not be loaded is tried again.
const retryAfter = 10 * time.Second

// Loaded returns what load does. Where it fails, the log says why, and the
// verifier returned vouches for nobody until load succeeds: when a signature is to
// be verified, it is tried again, no sooner than ten seconds after the last time.
// A node whose trust store is broken so pulls the ordinary way, and needs nobody to
// restart it.
func Loaded(name string, load func() (negotiate.Verifier, error), log *zap.Logger) negotiate.Verifier {
	v := &late{name: name, load: load, log: log}
	if verifier := v.current(); verifier != nil {
		return verifier
	}
	return v
}

// late is a verifier that is not there yet.
type late struct {
	name string
	load func() (negotiate.Verifier, error)
	log  *zap.Logger

	mu       sync.Mutex
	verifier negotiate.Verifier
	tried    time.Time
	problem  error
}

var _ negotiate.Verifier = (*late)(nil)

// current loads the verifier if it is time to. nil: it could not be loaded.
func (v *late) current() negotiate.Verifier {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.verifier != nil || !v.tried.IsZero() && time.Since(v.tried) < retryAfter {
		return v.verifier
	}
	v.tried = time.Now()
	verifier, err := v.load()
	if err != nil {
		if v.problem == nil || v.problem.Error() != err.Error() {
			v.log.Error("trust store not usable, it vouches for nobody", zap.String("trust", v.name), zap.Error(err))
		}
		v.problem = err
		return nil
	}
	if v.problem != nil {
		v.log.Info("trust store usable", zap.String("trust", v.name))
	}
	v.verifier = verifier
	return verifier
}

// Name is the trust store's name.
func (v *late) Name() string { return v.name }

// Accepts tells what the trust store accepts, everything while nobody knows.
func (v *late) Accepts(kind negotiate.SignatureKind) bool {
	verifier := v.current()
	return verifier == nil || verifier.Accepts(kind)
}

// Verify asks the trust store, if there is one by now.
func (v *late) Verify(ctx context.Context, target negotiate.Target, signature negotiate.Signature) (negotiate.Signer, error) {
	verifier := v.current()
	if verifier == nil {
		v.mu.Lock()
		defer v.mu.Unlock()
		return negotiate.Signer{}, reason.Errorf(reason.SignatureUntrusted, "trust store %s cannot be used: %s", v.name, v.problem)
	}
	return verifier.Verify(ctx, target, signature)
}

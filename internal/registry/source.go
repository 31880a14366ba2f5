package registry

import (
	"context"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"
	"oras.land/oras-go/v2/registry/remote/credentials"
)

// Source knows credentials that no request brought: of the node, not of a pod.
// It is asked when a host wants some, never before, and must be safe for
// concurrent use.
type Source interface {
	// Name is for logs: "docker config".
	Name() string

	// Credentials returns what may be presented to host (a mirror's name, or the
	// registry's own) for the repository "registry/path", best first. Trouble is
	// the source's to log, and means none. ctx ends the waiting.
	Credentials(ctx context.Context, repository, host string) []Offer

	// Refused tells that a registry did not take credentials offered for the
	// repository. True: the source has forgotten them, and may find others if it
	// is asked again.
	Refused(repository string, refused Credentials) (askAgain bool)
}

// Offer is one set of credentials that a Source has found.
type Offer struct {
	Credentials Credentials

	// Expires is when the source should be asked again, before anybody refuses.
	// Zero: not until then.
	Expires time.Time
}

// quietTime is how long the same trouble is not logged again.
const quietTime = time.Minute

// dockerConfig asks a docker config.json, and the helpers it names, at each
// call: logins come and go. It goes by the host that is asked, so a mirror gets
// the mirror's login.
type dockerConfig struct {
	path    string
	timeout time.Duration // of one helper
	log     *zap.Logger

	mu    sync.Mutex
	quiet time.Time // nothing is logged before
}

var _ Source = (*dockerConfig)(nil)

// Name implements Source.
func (d *dockerConfig) Name() string { return "docker config" }

// Refused implements Source: nothing is remembered, so nothing can be forgotten.
func (d *dockerConfig) Refused(string, Credentials) bool { return false }

// Credentials implements Source.
func (d *dockerConfig) Credentials(ctx context.Context, _, host string) []Offer {
	found, err := d.get(ctx, host)
	if err != nil {
		if ctx.Err() == nil {
			d.complain(err)
		}
		return nil
	}
	if found.Anonymous() {
		return nil
	}
	return []Offer{{Credentials: found}}
}

func (d *dockerConfig) get(ctx context.Context, host string) (Credentials, error) {
	store, err := credentials.NewStore(d.path, credentials.StoreOptions{})
	if err != nil {
		return Credentials{}, fmt.Errorf("open docker config %s: %w", d.path, err)
	}
	ctx, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()
	found, err := store.Get(ctx, credentials.ServerAddressFromHostname(host))
	if err != nil {
		return Credentials{}, fmt.Errorf("ask docker config %s for %s: %w", d.path, host, err)
	}
	return Credentials{Username: found.Username, Password: found.Password, IdentityToken: found.RefreshToken}, nil
}

func (d *dockerConfig) complain(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if now := time.Now(); now.After(d.quiet) {
		d.quiet = now.Add(quietTime)
		d.log.Warn("docker config gives no credentials", zap.Error(err))
	}
}

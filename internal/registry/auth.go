package registry

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/remotes/docker/auth"
	remoteerrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"go.uber.org/zap"
)

var (
	errNoScheme = errors.New("challenge for neither basic nor bearer authentication")
	errRefused  = errors.New("all credentials refused")
)

// tokens answers the challenges of one host for one repository and one set of
// request credentials, and remembers the answer.
//
// containerd's authorizer lives for one pull and knows one secret. This one lives
// on, so it has to forget what a short life never meets: a fetch that went wrong
// (the authorizer would return its error for ever), a token that the registry
// stopped accepting without saying why, and credentials that have expired. Each
// offer is presented by an authorizer of its own.
type tokens struct {
	fresh func(Credentials) docker.Authorizer
	log   *zap.Logger

	accepted atomic.Bool // the host has taken what authorizer presents

	// turn holds one element; whoever takes it may use what is below. A caller
	// whose ctx ends stops waiting, and the next does the fetch anew.
	turn       chan struct{}
	offers     offers
	authorizer docker.Authorizer // for the current offer; nil: the host has not asked for any
	challenge  *http.Response    // the last one's header and URL
	generation int               // counts changes of authorizer
	quiet      time.Time         // refusals are not logged before
}

func newTokens(o offers, fresh func(Credentials) docker.Authorizer, log *zap.Logger) *tokens {
	t := &tokens{fresh: fresh, log: log, turn: make(chan struct{}, 1), offers: o}
	t.turn <- struct{}{}
	return t
}

func (t *tokens) take(ctx context.Context) error {
	select {
	case <-t.turn:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (t *tokens) give() { t.turn <- struct{}{} }

// authorize puts the Authorization header into req if the host has asked for
// one before, and fetches a token where that is needed. The generation it
// returns is for challenged and accept.
func (t *tokens) authorize(ctx context.Context, req *http.Request) (generation int, err error) {
	if err := t.take(ctx); err != nil {
		return 0, err
	}
	defer t.give()
	if t.authorizer != nil && t.offers.renew(ctx, time.Now()) && t.present(ctx) != nil {
		t.next(ctx)
	}
	var refusal error // of the best offer
	for t.authorizer != nil {
		err := t.authorizer.Authorize(ctx, req)
		if err == nil {
			return t.generation, nil
		}
		if !isRefusal(err) {
			t.authorizer = nil // and the host is asked for its challenge again
			return t.generation, err
		}
		if refusal == nil {
			refusal = err
		}
		t.refuse(ctx)
		t.next(ctx)
	}
	return t.generation, refusal
}

// isRefusal reports whether a token server wants other credentials, rather than
// being out of order. 400 is what some say to an expired refresh token
// (RFC 6749, 5.2, invalid_grant).
func isRefusal(err error) bool {
	status, ok := errors.AsType[remoteerrors.ErrUnexpectedStatus](err)
	if !ok {
		return false
	}
	switch status.StatusCode {
	case http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden:
		return true
	default:
		return false
	}
}

// challenged takes a 401 or 403 that a request of that generation got. A nil
// error means: try again.
func (t *tokens) challenged(ctx context.Context, generation int, resp *http.Response) error {
	if err := t.take(ctx); err != nil {
		return err
	}
	defer t.give()
	if generation != t.generation {
		return nil // another request has been through this meanwhile
	}
	presented := resp.Request.Header.Get("Authorization")
	switch {
	case resp.StatusCode == http.StatusUnauthorized && !answerable(resp.Header):
		return errNoScheme
	case resp.StatusCode == http.StatusUnauthorized:
		t.challenge = &http.Response{Header: resp.Header, Request: &http.Request{URL: resp.Request.URL}}
	case t.authorizer == nil || t.offers.current.Credentials.Anonymous():
		return errRefused // a 403 asks for nothing, so there must have been something to refuse
	}

	// Not refused yet: what the host has not seen, and a token that was good and
	// is void now, while the secret behind it may be good for another.
	again := t.authorizer == nil || presented == "" || (t.accepted.Load() && strings.HasPrefix(presented, "Bearer ") && resp.StatusCode == http.StatusUnauthorized)
	if again && t.offers.current != nil && t.present(ctx) == nil {
		return nil
	}
	if !again {
		t.refuse(ctx)
	}
	if !t.next(ctx) {
		return errRefused
	}
	return nil
}

// answerable reports whether any credentials could answer.
func answerable(header http.Header) bool {
	for _, c := range auth.ParseAuthHeader(header) {
		if c.Scheme == auth.BasicAuth || (c.Scheme == auth.BearerAuth && c.Parameters["realm"] != "") {
			return true
		}
	}
	return false
}

// accept notes that an authorized request of that generation was answered. It
// does not wait: where a token is being fetched, the next answer will tell.
func (t *tokens) accept(generation int) {
	if t.accepted.Load() {
		return
	}
	select {
	case <-t.turn:
	default:
		return
	}
	defer t.give()
	if generation == t.generation && t.authorizer != nil {
		t.accepted.Store(true)
		t.offers.settle()
	}
}

// next presents the next offer that can answer the challenge; false: there is
// none, or nobody waits for it, and the next request begins anew.
func (t *tokens) next(ctx context.Context) bool {
	for t.offers.next(ctx) && ctx.Err() == nil {
		if t.present(ctx) == nil {
			return true
		}
	}
	t.offers.reset()
	t.authorizer = nil
	return false
}

// present makes an authorizer that answers the challenge with the current offer.
// An error says that the offer cannot: a basic challenge wants a name.
func (t *tokens) present(ctx context.Context) error {
	t.accepted.Store(false)
	t.generation++
	t.authorizer = t.fresh(t.offers.current.Credentials)
	return t.authorizer.AddResponses(ctx, []*http.Response{t.challenge})
}

func (t *tokens) refuse(ctx context.Context) {
	t.offers.refuse()
	now := time.Now()
	if t.offers.current == nil || t.offers.current.Credentials.Anonymous() || now.Before(t.quiet) || ctx.Err() != nil {
		return
	}
	t.quiet = now.Add(quietTime)
	t.log.Info("registry refuses credentials", zap.String("repository", t.offers.repository),
		zap.String("host", t.offers.host), zap.String("from", t.offers.from()))
}

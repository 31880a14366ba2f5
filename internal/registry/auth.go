package registry

import (
	"context"
	"net/http"

	"github.com/containerd/containerd/v2/core/remotes/docker"
)

// tokens answers the challenges of one host for one repository and one set of
// credentials, and remembers the answer.
//
// containerd's authorizer lives for one pull; this one lives on, so it has to
// forget what a short life never meets: a fetch that went wrong (the authorizer
// would return its error for ever) and a token that the registry stopped
// accepting without saying why.
type tokens struct {
	fresh func() docker.Authorizer

	// turn holds one element; whoever takes it may use what is below. A caller
	// whose ctx ends stops waiting, and the next does the fetch anew.
	turn       chan struct{}
	authorizer docker.Authorizer
	generation int // counts challenges answered
}

func newTokens(fresh func() docker.Authorizer) *tokens {
	t := &tokens{fresh: fresh, turn: make(chan struct{}, 1), authorizer: fresh()}
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
// returns is for challenged.
func (t *tokens) authorize(ctx context.Context, req *http.Request) (generation int, err error) {
	if err := t.take(ctx); err != nil {
		return 0, err
	}
	defer t.give()
	if err := t.authorizer.Authorize(ctx, req); err != nil {
		t.authorizer = t.fresh()
		return t.generation, err
	}
	return t.generation, nil
}

// challenged takes a 401 that a request of that generation got. A nil error
// means: try again.
func (t *tokens) challenged(ctx context.Context, generation int, resp *http.Response) error {
	if err := t.take(ctx); err != nil {
		return err
	}
	defer t.give()
	if generation != t.generation {
		return nil // another request has been through this meanwhile
	}
	if resp.Request.Header.Get("Authorization") != "" {
		t.authorizer = t.fresh()
	}
	if err := t.authorizer.AddResponses(ctx, []*http.Response{resp}); err != nil {
		return err
	}
	t.generation++
	return nil
}

package negotiate

import "context"

// Policy has the last word on a candidate that is sound in itself: which formats
// may be used for which repository, what this node can attach, whose signature
// is needed.
//
// Implementations are safe for concurrent use.
type Policy interface {
	// Judge returns how much the candidate is wanted, lower first, or an error
	// with a reason.Code (Disabled, NotAttachable, …) and a sentence that says
	// why it may not be used.
	Judge(ctx context.Context, img *Image, c *Candidate) (rank int, err error)
}

// PolicyFunc is a Policy in one function.
type PolicyFunc func(ctx context.Context, img *Image, c *Candidate) (rank int, err error)

// Judge calls f.
func (f PolicyFunc) Judge(ctx context.Context, img *Image, c *Candidate) (int, error) {
	return f(ctx, img, c)
}

// takeAll is the policy where none is given.
func takeAll(context.Context, *Image, *Candidate) (int, error) { return 0, nil }

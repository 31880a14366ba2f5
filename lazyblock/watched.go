package lazyblock

import (
	"context"
	"sync/atomic"
)

type watchedKey struct{}

// Watched returns a context with which a read can tell, by [Waits], that it had to
// wait for what is not on this node; waited reports whether it did.
func Watched(ctx context.Context) (_ context.Context, waited func() bool) {
	var flag atomic.Bool
	return context.WithValue(ctx, watchedKey{}, &flag), flag.Load
}

// Waits tells whoever watches the read of ctx, if anybody does, that it waits.
func Waits(ctx context.Context) {
	if flag, ok := ctx.Value(watchedKey{}).(*atomic.Bool); ok {
		flag.Store(true)
	}
}

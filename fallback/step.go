package fallback

import (
	"context"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/referee-cri/referee/internal/reason"
)

// grace is what a step has, after its limit, to return with what it knows. It
// is long for code that heeds its context, and short for somebody who waits.
const grace = 200 * time.Millisecond

// step runs one step of a pull for at most limit and returns what it returned. A
// step that does not come back in time is an error, and its late result, if that
// is a success, goes to drop. A panic is an error too.
func step[T any](
	ctx context.Context, g *Guard, name string, limit time.Duration, run func(context.Context) (T, error), drop func(T),
) (T, error) {
	type result struct {
		value T
		err   error
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	returned, abandoned := make(chan result), make(chan struct{})
	g.steps.Go(func() { // Close waits for it
		var r result
		func() {
			defer func() {
				if panicked := recover(); panicked != nil {
					g.log.Error("recovered from a panic in a step of a pull",
						zap.String("step", name), zap.Any("panic", panicked), zap.Stack("stack"))
					r.err = reason.Errorf(reason.Internal, "%s panicked: %v", name, panicked)
				}
			}()
			r.value, r.err = run(ctx)
		}()
		select {
		case returned <- r:
		case <-abandoned:
			if r.err == nil && drop != nil {
				drop(r.value)
			}
		}
	})

	select {
	case r := <-returned:
		return r.value, r.err
	case <-ctx.Done():
	}
	late := time.NewTimer(grace)
	defer late.Stop()
	select {
	case r := <-returned:
		return r.value, r.err
	case <-late.C:
		close(abandoned)
		var none T
		return none, fmt.Errorf("%s did not return within %s: %w", name, limit, ctx.Err())
	}
}

// release is a drop for steps whose result is a release function.
func release(f func()) {
	if f != nil {
		f()
	}
}

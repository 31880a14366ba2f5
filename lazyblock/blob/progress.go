package blob

import "context"

type progressKey struct{}

// WithProgress returns a context with which ReadRange tells of what it has, while
// it waits for the rest: more is called with the number of bytes that follow those
// it was told of before, from the beginning of the buffer on. They do not change
// any more. It is called by one goroutine at a time, by none once ReadRange has
// returned, and not necessarily for the last bytes.
func WithProgress(ctx context.Context, more func(n int)) context.Context {
	return context.WithValue(ctx, progressKey{}, more)
}

// withoutProgress is for a read whose bytes do not go to the caller's buffer.
func withoutProgress(ctx context.Context) context.Context {
	return WithProgress(ctx, func(int) {})
}

func progressOf(ctx context.Context) (more func(n int)) {
	more, ok := ctx.Value(progressKey{}).(func(int))
	if !ok {
		return func(int) {}
	}
	return more
}

package lazyblock

import "context"

// Priority says who waits for a read.
type Priority int

const (
	// Demand is a read that somebody waits for. It is the default.
	Demand Priority = iota
	// Background is a read that nobody waits for yet: it may wait for every Demand.
	Background
)

type (
	priorityKey  struct{}
	promotionKey struct{}
)

// WithPriority returns a context whose reads have that priority.
func WithPriority(ctx context.Context, p Priority) context.Context {
	return context.WithValue(ctx, priorityKey{}, p)
}

// PriorityOf returns the priority of reads with ctx.
func PriorityOf(ctx context.Context) Priority {
	p, _ := ctx.Value(priorityKey{}).(Priority)
	if p == Background {
		select {
		case <-Promotion(ctx):
			return Demand
		default:
		}
	}
	return p
}

// Promotable returns a Background context and the function that makes it a Demand
// one, reads that have begun included: somebody has come who waits for them. It
// may be called more than once, and need not be called.
func Promotable(ctx context.Context) (_ context.Context, promote func()) {
	promoted, promote := context.WithCancel(context.WithoutCancel(ctx))
	return context.WithValue(WithPriority(ctx, Background), promotionKey{}, promoted), promote
}

// Promotion is closed when reads with ctx become Demand; nil: never.
func Promotion(ctx context.Context) <-chan struct{} {
	if promoted, ok := ctx.Value(promotionKey{}).(context.Context); ok {
		return promoted.Done()
	}
	return nil
}

// UntilDemand returns a context that ends with ctx, or when that is promoted: for
// waiting in a queue where Demand need not stand. stop must be called.
func UntilDemand(ctx context.Context) (_ context.Context, stop func()) {
	until, cancel := context.WithCancel(ctx)
	promoted, ok := ctx.Value(promotionKey{}).(context.Context)
	if !ok {
		return until, cancel
	}
	forget := context.AfterFunc(promoted, cancel)
	return until, func() { forget(); cancel() }
}

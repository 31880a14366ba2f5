package blob

import "context"

// Priority says who waits for a read.
type Priority int

const (
	// Demand is a read that somebody waits for. It is the default.
	Demand Priority = iota
	// Background is a read that nobody waits for yet: it may wait for every Demand.
	Background
)

type priorityKey struct{}

// WithPriority returns a context whose reads have that priority.
func WithPriority(ctx context.Context, p Priority) context.Context {
	return context.WithValue(ctx, priorityKey{}, p)
}

// PriorityOf returns the priority of reads with ctx.
func PriorityOf(ctx context.Context) Priority {
	p, _ := ctx.Value(priorityKey{}).(Priority)
	return p
}

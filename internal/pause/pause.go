// Package pause waits for a while, or until nobody wants the result any more.
package pause

import (
	"context"
	"time"
)

// For sleeps for d. It returns early, with ctx's error, when ctx ends first.
func For(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

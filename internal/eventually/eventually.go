// Package eventually lets tests wait for what other goroutines or processes do.
package eventually

import (
	"testing"
	"time"
)

// How long a test waits for what must happen, and how often it looks.
const (
	patience = 20 * time.Second
	interval = 2 * time.Millisecond
)

// True looks until ok, and ends the test where that takes too long. what says for
// people what is waited for.
func True(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("waited %v in vain: %s", patience, what)
		}
	}
}

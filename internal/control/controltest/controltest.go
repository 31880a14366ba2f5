// Package controltest answers on a control socket as a daemon does, for tests of
// what asks there. [Serve] runs one goroutine, which ends with the test.
package controltest

import (
	"context"
	"net"
	"net/http"
	"path/filepath"
	"testing"

	"github.com/referee-cri/referee/internal/control"
)

// Serve answers with handler until the test ends, or end is called.
func Serve(t testing.TB, handler http.Handler) (client control.Client, end func()) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "control.sock")
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- control.Serve(ctx, listener, handler) }() // awaited by end
	end = func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		done <- nil
	}
	t.Cleanup(end)
	return control.Client{Path: path}, end
}

package attach_test

import (
	"context"
	"testing"

	"go.uber.org/zap/zaptest"

	"github.com/referee-cri/referee/internal/keeper"
	"github.com/referee-cri/referee/lazyblock/attach"
	"github.com/referee-cri/referee/lazyblock/attach/attachtest"
)

func TestFUSEDriver(t *testing.T) {
	t.Parallel()
	attachtest.Run(t, attachtest.Driver{
		Resends: attach.FUSEResends(),
		Open: func(t *testing.T, dir string) attach.Driver {
			t.Helper()
			driver, err := attach.NewFUSE(t.Context(), dir, keeperOf(t, dir+".keeper"), zaptest.NewLogger(t))
			if err != nil {
				t.Fatal(err)
			}
			return driver
		},
	})
}

// keeperOf returns the keeper at path, which ends with the test.
func keeperOf(t *testing.T, path string) keeper.Client {
	t.Helper()
	return keeper.Client{Path: path, Start: func(path string) error {
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- keeper.Serve(ctx, path) }() // waited for below
		t.Cleanup(func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
		return nil
	}}
}

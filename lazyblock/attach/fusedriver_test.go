package attach_test

import (
	"testing"

	"go.uber.org/zap/zaptest"

	"github.com/referee-cri/referee/lazyblock/attach"
	"github.com/referee-cri/referee/lazyblock/attach/attachtest"
)

func TestFUSEDriver(t *testing.T) {
	t.Parallel()
	attachtest.Run(t, func(t *testing.T, dir string) attach.Driver {
		t.Helper()
		driver, err := attach.NewFUSE(t.Context(), dir, nil, zaptest.NewLogger(t))
		if err != nil {
			t.Fatal(err)
		}
		return driver
	})
}

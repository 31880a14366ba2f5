package attach_test

import (
	"testing"
	"time"

	"go.uber.org/zap/zaptest"

	"github.com/referee-cri/referee/lazyblock/attach"
	"github.com/referee-cri/referee/lazyblock/attach/attachtest"
	"github.com/referee-cri/referee/lazyblock/attach/nbd"
)

func TestNBDDriver(t *testing.T) {
	t.Parallel()
	requireNBD(t)
	attachtest.Run(t, attachtest.Driver{
		Resends: true,
		Open: func(t *testing.T, dir string) attach.Driver {
			t.Helper()
			driver, err := attach.NewNBD(dir, nbd.Options{ResendAfter: 2 * time.Second, Log: zaptest.NewLogger(t)})
			if err != nil {
				t.Fatal(err)
			}
			return driver
		},
	})
}

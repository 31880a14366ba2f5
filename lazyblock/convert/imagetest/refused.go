package imagetest

import (
	"errors"
	"os"
	"testing"

	"github.com/referee-cri/referee/internal/reason"
)

// ExpectRefused checks the error of a conversion that was to fail: its code, what
// it wraps where is is not nil, and that nothing is left in work.
func ExpectRefused(t testing.TB, err error, code reason.Code, is error, work string) {
	t.Helper()
	if got := reason.Of(err); got != code {
		t.Errorf("code %q, want %q: %v", got, code, err)
	}
	if is != nil && !errors.Is(err, is) {
		t.Errorf("error does not wrap %v: %v", is, err)
	}
	if left, err := os.ReadDir(work); err != nil || len(left) > 0 {
		t.Errorf("files left behind: %v, %v", left, err)
	}
}

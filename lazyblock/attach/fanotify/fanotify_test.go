package fanotify_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/referee-cri/referee/lazyblock/attach/fanotify"
)

func TestSupportedSaysWhyNot(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	err := fanotify.Supported(dir)
	if !errors.Is(err, fanotify.ErrUnsafe) && !errors.Is(err, fanotify.ErrUnsupported) {
		t.Errorf("got %v, want one of the two reasons", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("the probe left %v (%v)", left, err)
	}
	if err := fanotify.Supported(filepath.Join(dir, "missing")); !errors.Is(err, fanotify.ErrUnsupported) || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without a directory: got %v", err)
	}
}

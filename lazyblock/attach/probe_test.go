package attach_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/lazyblock/attach"
)

func TestProbe(t *testing.T) {
	t.Parallel()
	empty, full := t.TempDir(), t.TempDir()
	file := filepath.Join(full, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		target string
		want   reason.Code
	}{
		"a root with files":  {full, reason.None},
		"an empty root":      {empty, reason.None},
		"a root that is not": {filepath.Join(empty, "missing"), reason.ProbeFailed},
		"not a directory":    {file, reason.ProbeFailed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if err := attach.Probe(t.Context(), tc.target); reason.Of(err) != tc.want {
				t.Errorf("got %v, want reason %q", err, tc.want)
			}
		})
	}
}

func TestProbeGivesUpWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	// A pipe that nobody writes to: opening it hangs as a dead device would.
	pipe := filepath.Join(t.TempDir(), "pipe")
	makePipe(t, pipe)
	if err := attach.Probe(ctx, pipe); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the context's error", err)
	}
}

// makePipe makes a named pipe. When the test ends it waits for the reader, and
// lets it go.
func makePipe(t *testing.T, path string) {
	t.Helper()
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			t.Error(err)
			return
		}
		_ = f.Close()
	})
}

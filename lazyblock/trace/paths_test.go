package trace

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestReadPaths(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	for _, name := range []string{"etc/passwd", "lib/a", "lib/deep/b", "lib/deep/c"} {
		if err := os.MkdirAll(filepath.Join(root, filepath.Dir(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, name), make([]byte, 5000), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Symlink("/etc", filepath.Join(root, "out")), unix.Mkfifo(filepath.Join(root, "lib/fifo"), 0o600)); err != nil {
		t.Fatal(err)
	}
	ended, end := context.WithCancel(t.Context())
	end()
	for name, tc := range map[string]struct {
		ctx   context.Context
		paths []string
		most  int64
		files int
		bytes int64
	}{
		"a file":              {t.Context(), []string{"etc/passwd"}, 1 << 20, 1, 5000},
		"a directory":         {t.Context(), []string{"lib"}, 1 << 20, 3, 15000},
		"no more than wanted": {t.Context(), []string{"lib", "etc/passwd"}, 7000, 2, 7000},
		"out of the volume":   {t.Context(), []string{"../etc/passwd", "out/passwd", "/etc/passwd"}, 1 << 20, 0, 0},
		"what is not there":   {t.Context(), []string{"absent", "lib/fifo", "lib/deep/c"}, 1 << 20, 1, 5000},
		"the volume is gone":  {ended, []string{"lib"}, 1 << 20, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			files, bytes, err := readPaths(tc.ctx, root, tc.paths, tc.most)
			if files != tc.files || bytes != tc.bytes || !errors.Is(err, tc.ctx.Err()) {
				t.Errorf("read %d files of %d bytes (%v), want %d of %d", files, bytes, err, tc.files, tc.bytes)
			}
		})
	}
}

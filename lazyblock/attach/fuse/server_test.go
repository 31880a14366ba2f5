package fuse

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// zeros is a device of nothing.
type zeros struct{}

func (zeros) Size() int64 { return 4096 }

func (zeros) ReadRange(ctx context.Context, p []byte, _ int64) (int, error) {
	clear(p)
	return len(p), ctx.Err()
}

// newTestServer mounts a server. Where the test is stuck the connection is
// aborted after limit, so that nobody on the machine waits for it for ever.
func newTestServer(t *testing.T, limit time.Duration) *Server {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: mounts a file system")
	}
	s, err := Mount(filepath.Join(t.TempDir(), "fuse"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	var stat unix.Stat_t
	if err := unix.Stat(s.Dir(), &stat); err != nil {
		t.Fatal(err)
	}
	watchdog := time.AfterFunc(limit, func() {
		t.Errorf("still at it after %v", limit)
		if err := os.WriteFile(fmt.Sprintf("/sys/fs/fuse/connections/%d/abort", unix.Minor(stat.Dev)), []byte("1"), 0); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		watchdog.Stop()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// TestFilesGoWhileOthersLook removes files while the directory is listed and
// searched: each waits for the kernel's lock on the directory, which the other
// may hold.
func TestFilesGoWhileOthersLook(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, 30*time.Second)
	done := make(chan struct{})
	var looking sync.WaitGroup
	for range 3 {
		looking.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-done:
					return
				default:
				}
				if _, err := os.ReadDir(s.Dir()); err != nil {
					t.Errorf("list: %v", err)
					return
				}
				if _, err := os.Lstat(filepath.Join(s.Dir(), fmt.Sprint("absent ", i))); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("look up: %v", err)
					return
				}
			}
		})
	}
	for i := range 2000 {
		name := fmt.Sprint("file ", i)
		path, err := s.Add(name, zeros{})
		if err == nil {
			_, err = os.Lstat(path) // so that the kernel keeps the name
		}
		if err != nil {
			t.Error(err)
			break
		}
		s.Remove(name)
	}
	close(done)
	looking.Wait()
}

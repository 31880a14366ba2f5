package criimage

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func TestListenMakesSocketAndParent(t *testing.T) {
	t.Parallel()
	path := filepath.Join(socketDir(t), "run", "referee", "cri.sock")
	l, err := Listen(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	for path, want := range map[string]fs.FileMode{
		path:               fs.ModeSocket | socketMode,
		filepath.Dir(path): fs.ModeDir | parentMode,
	} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode() != want {
			t.Errorf("%s has mode %v, want %v", path, info.Mode(), want)
		}
	}
}

// leaveStale leaves a socket behind that nobody listens on.
func leaveStale(t *testing.T, path string) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestListenReplacesStaleSocket(t *testing.T) {
	t.Parallel()
	path := filepath.Join(socketDir(t), "cri.sock")
	leaveStale(t, path)
	l, err := Listen(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	conn, err := new(net.Dialer).DialContext(t.Context(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
}

func TestListenLeavesWhatIsNotOurs(t *testing.T) {
	t.Parallel()
	for name, put := range map[string]func(t *testing.T, path string) error{
		"a live socket": func(t *testing.T, path string) error {
			l, err := new(net.ListenConfig).Listen(t.Context(), "unix", path)
			if err == nil {
				t.Cleanup(func() { _ = l.Close() })
			}
			return err
		},
		"a file":      func(_ *testing.T, path string) error { return os.WriteFile(path, nil, 0o600) },
		"a directory": func(_ *testing.T, path string) error { return os.Mkdir(path, 0o700) },
		"a link to a stale socket": func(t *testing.T, path string) error {
			leaveStale(t, path+".old")
			return os.Symlink(path+".old", path)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(socketDir(t), "cri.sock")
			if err := put(t, path); err != nil {
				t.Fatal(err)
			}
			before, err := os.Lstat(path)
			if err != nil {
				t.Fatal(err)
			}
			_, err = Listen(t.Context(), path)
			if err == nil || !strings.Contains(err.Error(), path) {
				t.Errorf("got %v, want an error that names the path", err)
			}
			if live := name == "a live socket"; errors.Is(err, ErrSocketInUse) != live {
				t.Errorf("error is ErrSocketInUse: %v, want %v", !live, live)
			}
			after, err := os.Lstat(path)
			if err != nil || !os.SameFile(before, after) || before.Mode() != after.Mode() {
				t.Errorf("it was touched: %v, %v", after, err)
			}
		})
	}
}

func TestListenExplainsLongPath(t *testing.T) {
	t.Parallel()
	path := filepath.Join(socketDir(t), strings.Repeat("a", 200))
	if _, err := Listen(t.Context(), path); err == nil || !strings.Contains(err.Error(), "longer than") {
		t.Errorf("got %v", err)
	}
}

// Of many processes that find the same stale socket one takes it, and keeps it.
func TestListenRace(t *testing.T) {
	t.Parallel()
	path := filepath.Join(socketDir(t), "cri.sock")
	leaveStale(t, path)
	var (
		wg        sync.WaitGroup
		mu        sync.Mutex
		listeners []net.Listener
	)
	for range 16 {
		wg.Go(func() {
			l, err := Listen(t.Context(), path)
			if err != nil {
				if !errors.Is(err, ErrSocketInUse) {
					t.Error(err)
				}
				return
			}
			mu.Lock()
			listeners = append(listeners, l)
			mu.Unlock()
		})
	}
	wg.Wait()
	if len(listeners) != 1 {
		t.Fatalf("%d listeners, want 1", len(listeners))
	}
	conn, err := new(net.Dialer).DialContext(t.Context(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	_ = listeners[0].Close()
}

func TestSocketGoesWithItsListener(t *testing.T) {
	t.Parallel()
	path := filepath.Join(socketDir(t), "cri.sock")
	l, err := Listen(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("socket is left: %v", err)
	}
}

package criimage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	socketMode = 0o660 // as containerd's: whoever may write to it is root on the node
	parentMode = 0o711 // as /run/containerd

	// maxSocketPath is the room for a path in sockaddr_un, without the final
	// zero (unix(7)).
	maxSocketPath = 107
)

// ErrSocketInUse is returned by Listen when another process answers there.
var ErrSocketInUse = errors.New("another process is listening")

// Listen makes a unix socket at path with mode 0660 and the parent directory if
// it is missing. A socket that nobody listens on any more is replaced; anything
// else at that path is left alone and is an error.
//
// Processes that call Listen for the same directory take turns, so that of two
// that find the same stale socket only one replaces it.
func Listen(ctx context.Context, path string) (net.Listener, error) {
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("listen on %s: path is longer than %d bytes", path, maxSocketPath)
	}
	parent := filepath.Dir(path)
	if err := os.MkdirAll(parent, parentMode); err != nil {
		return nil, fmt.Errorf("make socket directory: %w", err)
	}
	unlock, err := lockDirectory(parent)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := removeStale(ctx, path); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	config := net.ListenConfig{Control: limitMode}
	l, err := config.Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	if err := os.Chmod(path, socketMode); err != nil { // undo the umask's part
		return nil, errors.Join(fmt.Errorf("listen on %s: %w", path, err), l.Close())
	}
	return l, nil
}

// removeStale removes a socket at path that refuses connections.
func removeStale(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return errors.New("something that is not a socket is there")
	}
	conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
	if err == nil {
		return errors.Join(ErrSocketInUse, conn.Close())
	}
	// Only this one means that nobody listens; a full backlog is EAGAIN.
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("find out whether the socket is in use: %w", err)
	}
	return os.Remove(path)
}

// limitMode gives the unbound socket its mode. bind(2) takes it over, less the
// umask, so there is no moment at which others may connect.
func limitMode(_, _ string, conn syscall.RawConn) error {
	var chmodErr error
	if err := conn.Control(func(fd uintptr) { chmodErr = unix.Fchmod(int(fd), socketMode) }); err != nil {
		return err
	}
	return chmodErr
}

// lockDirectory holds flock(2) on a directory until unlock is called.
func lockDirectory(path string) (unlock func(), err error) {
	dir, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("lock directory: %w", err)
	}
	for {
		err = unix.Flock(int(dir.Fd()), unix.LOCK_EX)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock directory %s: %w", path, err), dir.Close())
	}
	return func() { _ = dir.Close() }, nil
}

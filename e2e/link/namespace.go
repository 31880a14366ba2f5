package link

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// namespace is a network namespace that only its descriptor keeps alive.
type namespace struct{ fd *os.File }

func newNamespace() (namespace, error) {
	var space namespace
	err := onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make network namespace: %w", err)
		}
		fd, err := os.Open("/proc/thread-self/ns/net")
		space.fd = fd
		return err
	})
	return space, err
}

// do runs f on a thread that is in the namespace. Sockets and devices made by f
// stay there. f must not start goroutines that make any.
func (n namespace) do(f func() error) error {
	return onThread(func() error {
		if err := unix.Setns(int(n.fd.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace: %w", err)
		}
		return f()
	})
}

func (n namespace) close() error {
	if n.fd == nil {
		return nil
	}
	return n.fd.Close()
}

// onThread runs f on an operating-system thread of its own and brings the thread
// back to the host's network namespace. If that should not work the thread stays
// locked and ends with its goroutine, so that no other code runs on it.
func onThread(f func() error) error {
	result := make(chan error)
	go func() { // waited for by the receive below
		runtime.LockOSThread()
		home, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			runtime.UnlockOSThread()
			result <- fmt.Errorf("find network namespace: %w", err)
			return
		}
		defer home.Close()
		err = f()
		if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		result <- err
	}()
	return <-result
}

package node

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// DefaultBase is where nodes live: on disk, since overlayfs needs an upper
// folder that is not itself an overlay or tmpfs image store, and short, since a
// Unix socket's path holds 107 bytes.
const DefaultBase = "/var/tmp/referee-e2e"

const leaseFile = ".owner"

// claim makes a node's folder and takes the lock that says its owner lives. The
// kernel drops the lock when the process dies, however it dies.
func claim(base string) (dir string, lease *os.File, err error) {
	unlock, err := lockBase(base)
	if err != nil {
		return "", nil, err
	}
	defer unlock()
	dir, err = os.MkdirTemp(base, "n")
	if err != nil {
		return "", nil, fmt.Errorf("make node folder: %w", err)
	}
	// Users in a pod's user namespace must be able to reach their root.
	if err := os.Chmod(dir, 0o711); err != nil {
		return "", nil, fmt.Errorf("make node folder: %w", err)
	}
	lease, err = os.OpenFile(filepath.Join(dir, leaseFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return "", nil, fmt.Errorf("claim node folder: %w", err)
	}
	if err := unix.Flock(int(lease.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return "", nil, errors.Join(fmt.Errorf("claim node folder %s: %w", dir, err), lease.Close())
	}
	return dir, lease, nil
}

// lockBase excludes a sweep between the making of a folder and its claim.
func lockBase(base string) (unlock func(), err error) {
	if err := os.MkdirAll(base, 0o711); err != nil {
		return nil, fmt.Errorf("make base folder: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(base, ".lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock base folder: %w", err)
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock base folder: %w", err), f.Close())
	}
	return func() { f.Close() }, nil
}

// Sweep removes the nodes below base whose owners have died, with their
// processes, mounts and loop devices. Living nodes are left alone.
func Sweep(base string) error {
	if _, err := os.Stat(base); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	unlock, err := lockBase(base)
	if err != nil {
		return err
	}
	defer unlock()
	entries, err := os.ReadDir(base)
	if err != nil {
		return fmt.Errorf("list nodes: %w", err)
	}
	var errs []error
	for _, entry := range entries {
		if dir := filepath.Join(base, entry.Name()); entry.IsDir() && orphaned(dir) {
			errs = append(errs, sweepNode(dir))
		}
	}
	return errors.Join(errs...)
}

func orphaned(dir string) bool {
	f, err := os.Open(filepath.Join(dir, leaseFile))
	if err != nil {
		return errors.Is(err, os.ErrNotExist)
	}
	defer f.Close()
	return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil
}

// sweepNode removes everything that belongs to a node's folder, and the folder.
// The order matters: a FUSE connection whose server is gone or stuck is aborted
// first, because anything that touches it, even reading another process's
// command line, would hang.
func sweepNode(dir string) error {
	shimSockets := shimSockets(dir)
	errs := []error{abortFUSE(dir)}
	errs = append(errs, killAll(dir))
	for _, path := range shimSockets {
		_ = os.Remove(path) // the shim removes it itself when it ends in peace
	}
	errs = append(errs, unmountAll(dir), detachLoops(dir))
	if left := Leaks(dir); len(left) > 0 {
		// Never remove a folder that still has mounts: RemoveAll would descend.
		return errors.Join(append(errs, fmt.Errorf("sweep %s: left behind: %s", dir, strings.Join(left, "; ")))...)
	}
	return errors.Join(append(errs, os.RemoveAll(dir))...)
}

// killAll ends every process that belongs to the folder and waits until they
// are gone. Killing one may reveal another (a shim's child), hence the loop.
func killAll(dir string) error {
	deadline := time.Now().Add(20 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		found := processesOf(dir)
		if len(found) == 0 {
			deleteCgroups(dir)
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("end processes of %s: %v survive SIGKILL", dir, found)
		}
		for _, p := range found {
			_ = unix.Kill(p.pid, unix.SIGKILL)
		}
		<-tick.C
	}
}

func unmountAll(dir string) error {
	deadline := time.Now().Add(10 * time.Second)
	for {
		points, err := mountsBelow(dir)
		if err != nil {
			return err
		}
		if len(points) == 0 {
			return nil
		}
		var errs []error
		for i := len(points) - 1; i >= 0; i-- { // last mounted first
			err := unix.Unmount(points[i], unix.UMOUNT_NOFOLLOW)
			if errors.Is(err, unix.EBUSY) {
				err = unix.Unmount(points[i], unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
			}
			// EINVAL: went with its parent.
			if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
				errs = append(errs, fmt.Errorf("unmount %s: %w", points[i], err))
			}
		}
		if time.Now().After(deadline) {
			return errors.Join(append(errs, fmt.Errorf("unmount below %s: %d mounts remain", dir, len(points)))...)
		}
	}
}

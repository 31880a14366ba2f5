// Package attach turns volumes into mounted directories.
//
// It owns kernel mounts and loop devices, and which way of serving blocks the
// kernel is offered. It knows nothing of registries, formats or containerd.
//
// Every driver keeps three promises. A reader never sees bytes that the device
// did not deliver: a failed read is an error. A mount is read-only. Attach
// gives up when its context ends, even where the kernel waits for a read.
package attach

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/lazyblock"
)

// Driver is one way of serving blocks to the kernel. Its methods may be called
// concurrently for different ids.
type Driver interface {
	// Name is what configuration and `referee doctor` call it.
	Name() string
	// Attach mounts volume at target, an existing empty directory. The driver
	// reads the volume's devices until Detach; it does not close them. id names the
	// volume in the driver's own directories; it must be a file name. Extra devices
	// are told apart by their own IDs.
	Attach(ctx context.Context, id string, volume lazyblock.Volume, target string) error
	// Adopt goes on serving a volume that a former process attached at target and
	// reports whether there is one: if not, Attach has to be called.
	Adopt(id string, volume lazyblock.Volume, target string) (bool, error)
	// Adopted tells that every volume that is still wanted was adopted: reads of
	// others, which waited, fail from now on.
	Adopted()
	// Detach unmounts target lazily, so that processes inside keep what they have
	// open, and stops serving the volume. Detaching what is not attached is no error.
	Detach(id string, target string) error
	// Close stops serving. Mounts stay. Where the driver's connection to the kernel
	// is kept by somebody else, readers wait for the next driver; else reads of
	// what is not in the page cache fail.
	Close() error
}

// options returns the mount options each file-system type needs so that the
// kernel never tries to write: no journal replay, no duplicate-UUID check.
func options(fsType string) []string {
	switch fsType {
	case "ext4":
		return []string{"noload"}
	case "xfs":
		return []string{"norecovery", "nouuid"}
	default:
		return nil
	}
}

// mount mounts the volume read-only from source, a block device or file, and
// extra ones in slot order.
func mount(source string, extra []string, target string, volume lazyblock.Volume) error {
	data := append(options(volume.FSType), volume.Options...)
	for _, device := range extra {
		data = append(data, "device="+device)
	}
	const flags = unix.MS_RDONLY | unix.MS_NOATIME
	err := unix.Mount(source, target, volume.FSType, flags, strings.Join(data, ","))
	if errors.Is(err, unix.ENODEV) {
		return reason.Errorf(reason.NotAttachable, "this kernel knows no %s, and no module of it can be loaded: %w", volume.FSType, err)
	}
	if err != nil {
		return fmt.Errorf("mount %s as %s: %w", source, volume.FSType, err)
	}
	return nil
}

// Unmount detaches every mount stacked on target. A target that is not mounted,
// or does not exist, is no error.
func Unmount(target string) error {
	for {
		err := unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		switch {
		case err == nil:
			continue
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT):
			return nil
		default:
			return fmt.Errorf("unmount %s: %w", target, err)
		}
	}
}

// Probe proves that a mounted volume can be read: it lists the root directory
// and looks at a few of its entries.
func Probe(ctx context.Context, target string) error {
	done := make(chan error, 1) // the reader may outlive us; it ends when the device fails or answers
	go func() { done <- probe(target) }()
	select {
	case err := <-done:
		return reason.Wrap(reason.ProbeFailed, err)
	case <-ctx.Done():
		return fmt.Errorf("probe volume: %w", ctx.Err())
	}
}

func probe(target string) error {
	const enough = 4
	dir, err := os.Open(target)
	if err != nil {
		return fmt.Errorf("probe volume: %w", err)
	}
	defer func() { _ = dir.Close() }()
	entries, err := dir.ReadDir(enough)
	if err != nil && !errors.Is(err, io.EOF) { // an empty image is as good as any
		return fmt.Errorf("probe volume: list root: %w", err)
	}
	for _, entry := range entries {
		if _, err := entry.Info(); err != nil {
			return fmt.Errorf("probe volume: stat %s: %w", entry.Name(), err)
		}
	}
	return nil
}

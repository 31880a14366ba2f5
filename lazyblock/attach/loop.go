package attach

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// loopTries bounds the race with other processes for the free loop device that
// the kernel names.
const loopTries = 16

// attachLoop puts a read-only loop device over file. The device goes away with
// its last user: close the result once something is mounted from it.
func attachLoop(file string) (*os.File, error) {
	// Not os.Open: it adds the file to the runtime's epoll set, the kernel then
	// sends POLL to the file's FUSE server, and a server that is ourselves cannot
	// be woken to answer while epoll is locked.
	backing, err := unix.Open(file, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("attach loop device: open %s: %w", file, err)
	}
	defer func() { _ = unix.Close(backing) }()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("attach loop device: %w", err)
	}
	defer func() { _ = control.Close() }()
	for range loopTries {
		loop, err := configureFreeLoop(control, backing, file)
		if errors.Is(err, unix.EBUSY) || errors.Is(err, unix.ENXIO) {
			continue // somebody else took the device between the two calls, or is giving it back
		}
		return loop, err
	}
	return nil, fmt.Errorf("attach loop device over %s: %w after %d tries", file, unix.EBUSY, loopTries)
}

func configureFreeLoop(control *os.File, backing int, name string) (*os.File, error) {
	number, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
	if err != nil {
		return nil, fmt.Errorf("find free loop device: %w", err)
	}
	loop, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", number), os.O_RDONLY, 0)
	if err != nil {
		return nil, fmt.Errorf("attach loop device: %w", err)
	}
	config := unix.LoopConfig{
		Fd:   uint32(backing),
		Size: 512, // sector size, whatever the backing file system prefers
		Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_READ_ONLY | unix.LO_FLAGS_AUTOCLEAR},
	}
	copy(config.Info.File_name[:], name)
	if err := unix.IoctlLoopConfigure(int(loop.Fd()), &config); err != nil {
		_ = loop.Close()
		return nil, fmt.Errorf("configure %s: %w", loop.Name(), err)
	}
	return loop, nil
}

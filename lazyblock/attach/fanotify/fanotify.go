// Package fanotify says whether volumes could be served by filling sparse files
// just before they are read (FAN_PRE_ACCESS, Linux 6.14), and why that is not done.
//
// It owns nothing that outlives a call, and serves no volume: the kernel lets
// every waiting read through when a listener's group closes, and holes then read
// as zeros. Holding the group's descriptor elsewhere does not close that: what a
// listener took and did not answer before it died cannot be answered by another,
// because an answer names a descriptor of the process that took the event
// (include/uapi/linux/fanotify.h, struct fanotify_response).
package fanotify

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

var (
	// ErrUnsupported is what a kernel without FAN_PRE_ACCESS, or a file system
	// that raises no such events, answers.
	ErrUnsupported = errors.New("no FAN_PRE_ACCESS events here (Linux 6.14, files on ext4, xfs or btrfs)")
	// ErrUnsafe is why a kernel that has them is not trusted with it.
	ErrUnsafe = errors.New("when the listener ends, waiting reads get zeros or wait for ever: nothing can take over what it left unanswered")
)

// Supported tells why volumes with files below dir cannot be served: it never
// returns nil.
func Supported(dir string) error {
	if err := probe(dir); err != nil {
		return fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	return ErrUnsafe
}

// probe asks for the events of one file in dir.
func probe(dir string) (err error) {
	file, err := os.CreateTemp(dir, ".fanotify-")
	if err != nil {
		return fmt.Errorf("make file to watch: %w", err)
	}
	defer func() { err = errors.Join(err, file.Close(), os.Remove(file.Name())) }()
	group, err := unix.FanotifyInit(unix.FAN_CLASS_PRE_CONTENT|unix.FAN_CLOEXEC|unix.FAN_NONBLOCK, unix.O_RDONLY|unix.O_LARGEFILE)
	if err != nil {
		return fmt.Errorf("make fanotify group: %w", err)
	}
	defer func() { err = errors.Join(err, unix.Close(group)) }()
	if err := unix.FanotifyMark(group, unix.FAN_MARK_ADD, unix.FAN_PRE_ACCESS, unix.AT_FDCWD, file.Name()); err != nil {
		return fmt.Errorf("watch %s: %w", file.Name(), err)
	}
	return nil
}

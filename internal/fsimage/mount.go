package fsimage

import (
	"errors"
	"os"
	"os/exec"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// NeedRoot skips tests that mount where they cannot.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
}

// MountFile mounts an EROFS image by mount(2), without a loop device, until the
// test ends, and returns where. It needs root and Linux 6.12.
func MountFile(t testing.TB, image string) string {
	t.Helper()
	NeedRoot(t)
	dir := t.TempDir()
	err := unix.Mount(image, dir, "erofs", unix.MS_RDONLY, "")
	if errors.Is(err, unix.ENOTBLK) {
		t.Skip("mounting EROFS from a file needs Linux 6.12")
	}
	if err != nil {
		t.Fatalf("mount %s: %v", image, err)
	}
	t.Cleanup(func() { Unmount(t, dir) })
	return dir
}

// MountLoop mounts an image of any file system through a loop device, as older
// kernels need it, until the test ends, and returns where. It needs root.
func MountLoop(t testing.TB, fsType, image string) string {
	t.Helper()
	NeedRoot(t)
	options := "ro,loop"
	if fsType == "ext4" {
		options += ",noload" // the journal of no image may be replayed onto it
	}
	dir := t.TempDir()
	if out, err := exec.CommandContext(t.Context(), "mount", "-t", fsType, "-o", options, image, dir).CombinedOutput(); err != nil {
		t.Fatalf("mount -o %s %s: %v: %s", options, image, err, out)
	}
	t.Cleanup(func() { Unmount(t, dir) }) // the loop device goes with the mount
	return dir
}

// Unmount waits for what a process forked meanwhile still holds open until it execs.
func Unmount(t testing.TB, dir string) {
	t.Helper()
	err := unix.Unmount(dir, 0)
	for deadline := time.Now().Add(10 * time.Second); errors.Is(err, unix.EBUSY) && time.Now().Before(deadline); err = unix.Unmount(dir, 0) {
		runtime.Gosched()
	}
	if err != nil {
		t.Errorf("unmount %s: %v", dir, err)
		_ = unix.Unmount(dir, unix.MNT_DETACH)
	}
}

// CheckEROFS runs the checker of erofs-utils over an image, where there is one.
func CheckEROFS(t testing.TB, image string) {
	t.Helper()
	tool, err := exec.LookPath("fsck.erofs")
	if err != nil {
		t.Log("not checked: no fsck.erofs here")
		return
	}
	if out, err := exec.CommandContext(t.Context(), tool, "--extract", image).CombinedOutput(); err != nil {
		t.Errorf("fsck.erofs %s: %v: %s", image, err, out)
	}
}

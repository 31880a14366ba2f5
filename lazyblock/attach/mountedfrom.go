package attach

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/sys/mountinfo"
)

// MountedFrom reports whether what is mounted at target, on top of all else, is a
// file system in file, directly or by a loop device.
func MountedFrom(target, file string) (bool, error) {
	mounts, err := mountinfo.GetMounts(func(info *mountinfo.Info) (skip, stop bool) { return info.Mountpoint != target, false })
	if err != nil {
		return false, fmt.Errorf("look what is mounted at %s: %w", target, err)
	}
	if len(mounts) == 0 {
		return false, nil
	}
	source := mounts[len(mounts)-1].Source // mounts are listed in the order in which they were made
	if loop, isLoop := strings.CutPrefix(source, "/dev/loop"); isLoop {
		// sysfs shows the backing file's name (loop(4)).
		backing, err := os.ReadFile(filepath.Join("/sys/block/loop"+loop, "loop/backing_file"))
		if err != nil {
			return false, nil //nolint:nilerr // the device is going away: it is mounted from something else
		}
		source = strings.TrimSuffix(string(backing), "\n")
	}
	return source == file, nil
}

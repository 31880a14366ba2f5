package attach

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/lazyblock"
)

// MountFiles mounts a volume whose devices are local files, the primary one first,
// at target, on top of whatever is mounted there already.
//
// EROFS is told to read the files past their own page cache where the kernel knows
// how to (Linux 6.13): what is cached once, as the mounted files, need not be
// cached twice. Not with blocks below 4 KiB, which a disk may refuse to read.
func MountFiles(files []string, target string, volume lazyblock.Volume, log *zap.Logger) error {
	if volume.FSType == "erofs" && hasWholeBlocks(files[0]) {
		direct := volume
		direct.Options = append(slices.Clone(volume.Options), "directio")
		before := backings()
		err := mountFiles(files[0], files[1:], target, direct)
		if err == nil {
			err = raiseReadAhead(files[0], before)
			log.Debug("read-ahead of a mounted file", zap.String("target", target), zap.Error(err)) // without, it is only slower
			return nil
		}
		if !errors.Is(err, unix.EINVAL) {
			return reason.Wrap(reason.AttachFailed, err)
		}
	}
	return reason.Wrap(reason.AttachFailed, mountFiles(files[0], files[1:], target, volume))
}

// hasWholeBlocks reports whether the EROFS in a file has blocks of 4 KiB: log2 of
// their size is byte 12 of the superblock at 1024 (linux/fs/erofs/erofs_fs.h).
func hasWholeBlocks(file string) bool {
	f, err := os.Open(file)
	if err != nil {
		return false
	}
	defer func() { _ = f.Close() }() // read only
	var bits [1]byte
	_, err = f.ReadAt(bits[:], 1024+12)
	return err == nil && bits[0] == 12
}

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

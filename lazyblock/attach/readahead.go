package attach

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// leastReadAhead is how far ahead of a sequential reader a settled volume is read at
// least, in KiB: past the files' page cache every request waits for the disk.
const leastReadAhead = 1024

// bdiDir is where the kernel shows what file systems are backed by (sysfs,
// Documentation/ABI/testing/sysfs-class-bdi).
const bdiDir = "/sys/class/bdi"

// raiseReadAhead lets sequential readers of an EROFS that was mounted from files go as
// far ahead as those of the disk under file: the kernel starts such mounts with 128 KiB.
// before is what backings returned before the mount. Loop devices are left as they
// are: they read through the file's page cache, which goes ahead by itself.
func raiseReadAhead(file string, before []string) error {
	added := slices.DeleteFunc(backings(), func(name string) bool { return slices.Contains(before, name) })
	if len(added) != 1 {
		return fmt.Errorf("raise read-ahead: %d EROFS mounts at the same time, cannot tell which it is", len(added))
	}
	kib := max(diskReadAhead(file), leastReadAhead)
	if err := os.WriteFile(filepath.Join(added[0], "read_ahead_kb"), []byte(strconv.Itoa(kib)), 0); err != nil {
		return fmt.Errorf("raise read-ahead: %w", err)
	}
	return nil
}

// backings are the kernel's names for what EROFS mounts of files read from. They tell
// nothing of the mount; one that is new since before a mount is that mount's.
func backings() []string {
	names, _ := filepath.Glob(filepath.Join(bdiDir, "erofs-*")) // the pattern is good
	return names
}

// diskReadAhead is the read-ahead of the disk that a file is on, in KiB, 0 where its
// file system is on none, or on several.
func diskReadAhead(file string) int {
	var stat unix.Stat_t
	if unix.Stat(file, &stat) != nil {
		return 0
	}
	block := fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(stat.Dev), unix.Minor(stat.Dev))
	for _, queue := range []string{"/queue", "/../queue"} { // of a disk, of a partition
		text, err := os.ReadFile(block + queue + "/read_ahead_kb")
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if kib, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil {
			return kib
		}
	}
	return 0
}

package attach

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"go.uber.org/zap/zaptest"
	"golang.org/x/sys/unix"

	"github.com/referee-cri/referee/internal/eventually"
	"github.com/referee-cri/referee/internal/fsimage"
	"github.com/referee-cri/referee/lazyblock"
)

// TestLocalFilesAreReadFarAhead reads of the kernel how far a mount of a file is read
// ahead. Others may mount EROFS at the same time, so it looks more than once.
func TestLocalFilesAreReadFarAhead(t *testing.T) {
	t.Parallel()
	fsimage.NeedRoot(t)
	dir, target, file := t.TempDir(), t.TempDir(), filepath.Join(t.TempDir(), "image")
	err := os.WriteFile(filepath.Join(dir, "file"), []byte("content"), 0o600)
	if err == nil {
		err = os.WriteFile(file, fsimage.EROFS(t, dir), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	mountTarget := func() {
		if err := MountFiles([]string{file}, target, lazyblock.Volume{FSType: "erofs"}, zaptest.NewLogger(t)); err != nil {
			t.Fatal(err)
		}
	}
	mountTarget()
	if mounted, err := MountedFrom(target, file); err != nil || !mounted {
		t.Fatalf("mounted from the file: %t, %v", mounted, err)
	}
	var stat unix.Stat_t
	if err := unix.Stat(target, &stat); err != nil {
		t.Fatal(err)
	}
	fsimage.Unmount(t, target)
	if unix.Major(stat.Dev) != 0 {
		t.Skip("this kernel mounts files by loop devices")
	}
	want := max(diskReadAhead(file), leastReadAhead)
	eventually.True(t, "the mount is read far ahead", func() bool {
		before := readFarAhead(t, want)
		mountTarget()
		defer fsimage.Unmount(t, target)
		return len(readFarAhead(t, want)) > len(before)
	})
}

// readFarAhead are the kernel's names for mounts that are read so far ahead, in KiB.
func readFarAhead(t *testing.T, kib int) []string {
	t.Helper()
	return slices.DeleteFunc(backings(), func(name string) bool {
		text, err := os.ReadFile(filepath.Join(name, "read_ahead_kb"))
		return err != nil || strings.TrimSpace(string(text)) != strconv.Itoa(kib)
	})
}

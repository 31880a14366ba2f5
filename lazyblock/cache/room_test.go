package cache

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"golang.org/x/sys/unix"
)

func (s *Store) total() (n int64) {
	for _, u := range s.Usage() {
		n += u.Cached
	}
	return n
}

// TestEvictionGoesDownToTheLowMark, oldest first, once the high one is passed.
func TestEvictionGoesDownToTheLowMark(t *testing.T) {
	t.Parallel()
	s := openStore(t, t.TempDir(), Options{MaxBytes: 8 * mib, LowBytes: 4 * mib})
	for i := range 8 {
		src := newSource(byte(i+1), mib)
		b := openBlob(t, s, src)
		check(t, b, src, 0, mib)
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		if got, want := s.total(), int64(i+1)*mib; got != want {
			t.Fatalf("%d bytes kept below the high mark, want %d", got, want)
		}
	}
	src := newSource(9, mib)
	b := openBlob(t, s, src)
	check(t, b, src, 0, mib)
	if got := s.total(); got != 4*mib {
		t.Errorf("%d bytes kept, want 4 MiB", got)
	}
	for i, want := range map[int]bool{5: false, 6: true, 8: true} {
		found := false
		for _, u := range s.Usage() {
			found = found || u.Digest == newSource(byte(i), mib).desc().Digest
		}
		if found != want {
			t.Errorf("blob %d kept: %t, want %t", i, found, want)
		}
	}
}

// smallDisk mounts a file system of n bytes.
func smallDisk(t *testing.T, n string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting a small file system takes root")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "size="+n); err != nil {
		t.Skipf("mount tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	return dir
}

// TestFileSystemIsNotFilled: what others need of it stays free, unused blobs go,
// and reads are right whatever can be kept.
func TestFileSystemIsNotFilled(t *testing.T) {
	t.Parallel()
	dir := smallDisk(t, "16m")
	s := openStore(t, dir, Options{KeepFree: 8 * mib, FlushInterval: time.Hour}) // maps take room as well
	old := newSource(1, 4*mib)
	b := openBlob(t, s, old)
	check(t, b, old, 0, 4*mib)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	src := newSource(2, 12*mib)
	big := openBlob(t, s, src)
	check(t, big, src, 0, 12*mib)
	check(t, big, src, 0, 12*mib)
	free, _, err := osDisk{}.Space(dir)
	if err != nil {
		t.Fatal(err)
	}
	if free < 8*mib {
		t.Errorf("%d bytes left free, want 8 MiB", free)
	}
	if kept := big.Cached(); kept < 6*mib || kept > 8*mib {
		t.Errorf("%d bytes of the blob in use kept, want nearly 8 MiB", kept)
	}
	if b, err := s.Blob(old.desc(), nil); err != nil || b.Cached() != 0 {
		t.Errorf("the unused blob was kept: %v", err)
	} else if err := b.Close(); err != nil {
		t.Error(err)
	}
}

// TestFullFileSystemIsSurvived: somebody else fills it while a blob is read, and
// later makes room.
func TestFullFileSystemIsSurvived(t *testing.T) {
	t.Parallel()
	dir := smallDisk(t, "8m")
	s := openStore(t, dir, Options{KeepFree: -1})
	src := newSource(1, 6*mib)
	b := openBlob(t, s, src)
	check(t, b, src, 0, mib)
	other := filepath.Join(dir, "other")
	if err := os.WriteFile(other, make([]byte, 16*mib), 0o600); err == nil {
		t.Fatal("the file system is larger than it should be")
	}
	check(t, b, src, 0, 6*mib)
	if kept := b.Cached(); kept >= 6*mib {
		t.Errorf("%d bytes kept on a full file system", kept)
	}
	if err := os.Remove(other); err != nil {
		t.Fatal(err)
	}
	check(t, b, src, 0, 6*mib)
	if kept := b.Cached(); kept != 6*mib {
		t.Errorf("%d bytes kept once there is room, want all", kept)
	}
}

// TestFullDiskIsToldOnce, though short pieces still find room where long ones do not.
func TestFullDiskIsToldOnce(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zap.InfoLevel)
	s := openStore(t, t.TempDir(), Options{MaxBytes: 4 * mib, Log: zap.New(core)})
	src := newSource(1, 8*mib)
	b := openBlob(t, s, src)
	fetch := func(off, n int64) {
		t.Helper()
		if err := b.Prefetch(t.Context(), off, n); err != nil {
			t.Fatal(err)
		}
	}
	fetch(0, 3*mib)
	fetch(4*mib, 2*mib) // no room
	fetch(3*mib, mib/2) // room
	fetch(6*mib, 2*mib) // no room
	if n := logs.FilterMessageSnippet("cannot keep").Len(); n != 1 {
		t.Errorf("told %d times, want once", n)
	}
	if n := logs.FilterMessageSnippet("keeps what is read again").Len(); n != 0 {
		t.Errorf("told %d times that there is room", n)
	}
}

package e2e_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/moby/sys/mountinfo"

	"github.com/referee-cri/referee/e2e/node"
	"github.com/referee-cri/referee/fallback"
	"github.com/referee-cri/referee/internal/eventually"
	"github.com/referee-cri/referee/internal/regtest"
	"github.com/referee-cri/referee/internal/testdata"
	"github.com/referee-cri/referee/lazyblock/format/span"
)

// TestSettled lets an image settle under a container: that one reads on, and a new
// one reads a local file, also after the daemon was killed and after a reboot.
func TestSettled(t *testing.T) {
	t.Parallel()
	b := newBed(t, node.Options{}, eager)
	shelf := b.newShelf(t, testdata.Dir(t, "reference")+"/tiny", 3)
	b.pull(t, shelf.ref, fallback.Lazy)
	before := start(t, b.lazy, shelf.ref, "/bin/busybox", "sleep", "1000")
	b.expectWhole(t, shelf, before)
	eventually.True(t, "the volume is mounted from a file", func() bool { return b.mountedFromCache(t) })
	if says := b.run(t, "status"); !strings.Contains(says, "settled") {
		t.Errorf("status says %s", says)
	}
	restore := b.registry.Inject(regtest.Fault{Drop: true})
	defer restore()

	after := start(t, b.lazy, shelf.ref, "/bin/busybox", "sleep", "1000")
	for _, again := range []func(){
		func() {}, // as it settled
		func() { b.end(t, b.referee.Kill); b.begin(t) },
		func() { b.end(t, b.referee.Stop); b.begin(t) },
	} {
		again()
		dropCaches(t)
		b.expectWhole(t, shelf, before)
		dropCaches(t)
		b.expectWhole(t, shelf, after)
	}
	b.end(t, b.referee.Kill)
	dropCaches(t)
	b.expectWhole(t, shelf, after) // nobody serves it, and nobody needs to
	b.begin(t)
	removePod(t, before)
	removePod(t, after)

	b.cyclePower(t)
	b.begin(t)
	rebooted := start(t, b.lazy, shelf.ref, "/bin/busybox", "sleep", "1000")
	b.expectWhole(t, shelf, rebooted)
	removePod(t, rebooted)
	b.expectReleased(t, shelf.ref)
}

// filesBeyondMemory of a shelf are more than a daemon keeps decoded in its memory,
// by two spans at least.
const filesBeyondMemory = span.DefaultMemory/fileSize + 3

// TestDecodedBytesAreKept reads an image whose spans are decoded: what was decoded
// is read again from the disk, a daemon that is killed begins anew, and nothing of
// it is left once the image is a local file, or gone.
func TestDecodedBytesAreKept(t *testing.T) {
	t.Parallel()
	for name, settings := range map[string]string{"until it is removed": lazily, "until it settles": eager} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBed(t, node.Options{}, settings)
			shelf := b.newShelfAs(t, testdata.Dir(t, "reference")+"/tiny", filesBeyondMemory, "soci")
			b.pullAs(t, shelf.ref, "soci")
			container := start(t, b.lazy, shelf.ref, "/bin/busybox", "sleep", "1000")
			b.expectWhole(t, shelf, container)
			if settings == eager {
				eventually.True(t, "the volume is mounted from a file", func() bool { return b.mountedFromCache(t) })
				eventually.True(t, "the decoded bytes are gone", func() bool { return b.status(t).Cache.Scratch == 0 })
			} else {
				b.expectDecodedKept(t, shelf, container)
			}
			dropCaches(t)
			b.expectWhole(t, shelf, container)
			removePod(t, container)
			b.expectReleased(t, shelf.ref)
			eventually.True(t, "the decoded bytes are gone", func() bool { return b.status(t).Cache.Scratch == 0 })
		})
	}
}

// expectDecodedKept reads the shelf again, with empty page caches, before and after
// the daemon is killed.
func (b *bed) expectDecodedKept(t *testing.T, shelf *shelf, container *node.Container) {
	t.Helper()
	kept := b.status(t).Cache.Scratch
	if kept < fileSize {
		t.Errorf("%d decoded bytes are kept of %d files of %d", kept, len(shelf.sums), fileSize)
	}
	dropCaches(t)
	b.expectWhole(t, shelf, container)
	b.end(t, b.referee.Kill)
	b.begin(t)
	if left := b.status(t).Cache.Scratch; left >= kept {
		t.Errorf("%d decoded bytes after the daemon was killed, %d before", left, kept)
	}
	dropCaches(t)
	b.expectWhole(t, shelf, container)
	if again := b.status(t).Cache.Scratch; again < fileSize {
		t.Errorf("%d decoded bytes are kept by the next daemon", again)
	}
}

// expectWhole reads every file of the shelf.
func (b *bed) expectWhole(t *testing.T, s *shelf, container *node.Container) {
	t.Helper()
	for i := range s.sums {
		if r := s.readFile(t, container, i); !r.right {
			t.Errorf("file %d: %s", i, r.says)
		}
	}
}

// mountedFromCache reports whether a volume of the daemon is mounted from a file of
// its cache, on top of all else.
func (b *bed) mountedFromCache(t *testing.T) bool {
	t.Helper()
	mounts, err := mountinfo.GetMounts(func(info *mountinfo.Info) (skip, stop bool) {
		return !strings.HasPrefix(info.Mountpoint, b.Dir()) || filepath.Base(info.Mountpoint) != "root", false
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, mount := range mounts {
		if strings.Contains(mount.Source, "/cache/v1/") {
			return true
		}
	}
	return false
}

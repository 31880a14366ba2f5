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

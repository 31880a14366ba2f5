// Package attachtest is the conformance suite of attach drivers: what every way
// of serving blocks must do, whatever the kernel interface below.
package attachtest

import (
	"context"
	"crypto/sha256"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/referee-cri/referee/lazyblock"
	"github.com/referee-cri/referee/lazyblock/attach"
)

// Driver is what the suite has to know of a driver.
type Driver struct {
	// Open makes a driver that works below dir: a new one, or after that was
	// closed the next, which takes over what it left.
	Open func(t *testing.T, dir string) attach.Driver
	// Resends tells that a read which a former process took and never answered
	// is answered by the next.
	Resends bool
}

// Run runs the suite.
func Run(t *testing.T, driver Driver) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("attaching volumes needs root")
	}
	t.Run("erofs on two devices", func(t *testing.T) {
		image := makeImage(t, "erofs", "--chunksize=4096", "--blobdev=BLOB")
		for name, check := range map[string]func(*testing.T, *bench){
			"reads every byte right":           readsRight, // no comma: device= has the path
			"is taken over by the next driver": isTakenOver,
		} {
			t.Run(name, func(t *testing.T) { check(t, newBench(t, driver, image)) })
		}
	})
	for _, fsType := range []string{"erofs", "ext4"} {
		t.Run(fsType, func(t *testing.T) {
			image := makeImage(t, fsType)
			for name, check := range map[string]func(*testing.T, *bench){
				"reads every byte right, also concurrently":  readsRight,
				"ends when the context ends during mount":    endsWithContext,
				"turns a failing device into EIO":            failsWithEIO,
				"refuses a device without file system":       refusesGarbage,
				"attaches two volumes and detaches only one": keepsVolumesApart,
				"is read-only": isReadOnly,
				"detaches what is open without breaking others": detachesLazily,
				"is taken over by the next driver":              isTakenOver,
				"answers a read that the former driver took":    answersWaiting,
				"fails reads of what nobody takes over":         failsLeftOver,
			} {
				t.Run(name, func(t *testing.T) { check(t, newBench(t, driver, image)) })
			}
		})
	}
}

// bench is one driver with one image.
type bench struct {
	image
	kind   Driver
	driver attach.Driver // the one that serves now
	dir    string
}

func newBench(t *testing.T, kind Driver, image image) *bench {
	t.Helper()
	b := &bench{image: image, kind: kind, dir: t.TempDir()}
	b.open(t)
	t.Cleanup(func() {
		b.close(t)
		if err := attach.Unmount(b.driverDir()); err != nil {
			t.Error(err)
		}
	})
	return b
}

func (b *bench) driverDir() string { return filepath.Join(b.dir, "driver") }

func (b *bench) open(t *testing.T) {
	t.Helper()
	b.driver = b.kind.Open(t, b.driverDir())
}

func (b *bench) close(t *testing.T) {
	t.Helper()
	if err := b.driver.Close(); err != nil {
		t.Errorf("close driver: %v", err)
	}
}

// device returns a new device of the image's primary bytes.
func (b *bench) device(id string) *device { return newDevice(id, b.primary) }

// volume is the image with its primary bytes from device.
func (b *bench) volume(device lazyblock.Device) lazyblock.Volume {
	v := lazyblock.Volume{FSType: b.fsType, Primary: device}
	if b.extra != nil {
		v.Extra = []lazyblock.Device{newDevice(device.ID()+"-extra", b.extra)}
	}
	return v
}

// attach mounts device and detaches it when the test ends.
func (b *bench) attach(ctx context.Context, t *testing.T, id string, device lazyblock.Device) (string, error) {
	t.Helper()
	target := filepath.Join(b.dir, "mnt-"+id)
	if err := os.Mkdir(target, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.driver.Detach(id, target); err != nil {
			t.Errorf("detach: %v", err)
		}
	})
	return target, b.driver.Attach(ctx, id, b.volume(device), target)
}

func (b *bench) mustAttach(t *testing.T, id string, device lazyblock.Device) string {
	t.Helper()
	target, err := b.attach(t.Context(), t, id, device)
	if err != nil {
		t.Fatalf("attach: %v", err)
	}
	if err := attach.Probe(t.Context(), target); err != nil {
		t.Fatal(err)
	}
	return target
}

func readsRight(t *testing.T, b *bench) {
	readAll(t, b, b.mustAttach(t, "vol", b.device("vol")))
}

// readAll reads every file at once and compares it.
func readAll(t *testing.T, b *bench, target string) {
	t.Helper()
	var wg sync.WaitGroup
	for name, want := range b.files {
		wg.Go(func() {
			data, err := os.ReadFile(filepath.Join(target, name))
			if err != nil {
				t.Error(err)
			} else if got := sha256.Sum256(data); got != want {
				t.Errorf("%s: content differs", name)
			}
		})
	}
	wg.Wait()
}

func endsWithContext(t *testing.T, b *bench) {
	device := b.device("vol")
	device.hang.Store(true)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	started := time.Now()
	_, err := b.attach(ctx, t, "vol", device)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("attach to a hanging device: got %v, want a deadline error", err)
	}
	if took := time.Since(started); took > 10*time.Second {
		t.Errorf("attach returned after %v, long after its deadline", took)
	}
}

func failsWithEIO(t *testing.T, b *bench) {
	device := b.device("vol")
	target := b.mustAttach(t, "vol", device)
	device.fail.Store(true)
	failures := 0
	for name := range b.files {
		_, err := os.ReadFile(filepath.Join(target, name))
		switch {
		case errors.Is(err, unix.EIO):
			failures++
		case err != nil:
			t.Errorf("%s: got %v, want EIO", name, err)
		}
	}
	if failures == 0 {
		t.Error("no read failed although the device fails")
	}
}

func refusesGarbage(t *testing.T, b *bench) {
	_, err := b.attach(t.Context(), t, "vol", newDevice("vol", make([]byte, 1<<20)))
	if err == nil {
		t.Error("a device full of zeros was mounted")
	}
}

func keepsVolumesApart(t *testing.T, b *bench) {
	one := b.mustAttach(t, "one", b.device("one"))
	b.mustAttach(t, "two", b.device("two"))
	if err := b.driver.Detach("two", filepath.Join(b.dir, "mnt-two")); err != nil {
		t.Fatal(err)
	}
	for name, want := range b.files {
		data, err := os.ReadFile(filepath.Join(one, name))
		if err != nil || sha256.Sum256(data) != want {
			t.Errorf("%s after the other volume was detached: %v", name, err)
		}
	}
}

func isReadOnly(t *testing.T, b *bench) {
	target := b.mustAttach(t, "vol", b.device("vol"))
	if err := os.WriteFile(filepath.Join(target, "new"), nil, 0o600); !errors.Is(err, unix.EROFS) {
		t.Errorf("write: got %v, want EROFS", err)
	}
}

func detachesLazily(t *testing.T, b *bench) {
	target := b.mustAttach(t, "vol", b.device("vol"))
	for name := range b.files {
		f, err := os.Open(filepath.Join(target, name))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() })
		break
	}
	if err := b.driver.Detach("vol", target); err != nil {
		t.Fatalf("detach with an open file: %v", err)
	}
	entries, err := os.ReadDir(target)
	if err != nil || len(entries) != 0 {
		t.Errorf("the target still shows %d entries (%v)", len(entries), err)
	}
}

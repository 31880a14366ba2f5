// Package attachtest is the conformance suite of attach drivers: what every way
// of serving blocks must do, whatever the kernel interface below.
package attachtest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/referee-cri/referee/lazyblock"
	"github.com/referee-cri/referee/lazyblock/attach"
)

// Run runs the suite. open makes a driver that works below dir.
func Run(t *testing.T, open func(t *testing.T, dir string) attach.Driver) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("attaching volumes needs root")
	}
	for _, fsType := range []string{"erofs", "ext4"} {
		t.Run(fsType, func(t *testing.T) {
			image, files := makeImage(t, fsType)
			for name, check := range map[string]func(*testing.T, *bench){
				"reads every byte right, also concurrently":  readsRight,
				"ends when the context ends during mount":    endsWithContext,
				"turns a failing device into EIO":            failsWithEIO,
				"refuses a device without file system":       refusesGarbage,
				"attaches two volumes and detaches only one": keepsVolumesApart,
				"is read-only": isReadOnly,
				"detaches what is open without breaking others": detachesLazily,
			} {
				t.Run(name, func(t *testing.T) {
					b := newBench(t, open, fsType, image, files)
					check(t, b)
				})
			}
		})
	}
}

// bench is one driver with one image.
type bench struct {
	driver attach.Driver
	dir    string
	fsType string
	image  []byte
	files  map[string][32]byte
}

func newBench(t *testing.T, open func(*testing.T, string) attach.Driver, fsType string, image []byte, files map[string][32]byte) *bench {
	t.Helper()
	dir := t.TempDir()
	driver := open(t, filepath.Join(dir, "driver"))
	t.Cleanup(func() {
		if err := driver.Close(); err != nil {
			t.Errorf("close driver: %v", err)
		}
		if err := attach.Unmount(filepath.Join(dir, "driver")); err != nil {
			t.Error(err)
		}
	})
	return &bench{driver: driver, dir: dir, fsType: fsType, image: image, files: files}
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
	return target, b.driver.Attach(ctx, id, lazyblock.Volume{FSType: b.fsType, Primary: device}, target)
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
	target := b.mustAttach(t, "vol", newDevice("vol", b.image))
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
	device := newDevice("vol", b.image)
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
	device := newDevice("vol", b.image)
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
	one := b.mustAttach(t, "one", newDevice("one", b.image))
	b.mustAttach(t, "two", newDevice("two", b.image))
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
	target := b.mustAttach(t, "vol", newDevice("vol", b.image))
	if err := os.WriteFile(filepath.Join(target, "new"), nil, 0o600); !errors.Is(err, unix.EROFS) {
		t.Errorf("write: got %v, want EROFS", err)
	}
}

func detachesLazily(t *testing.T, b *bench) {
	target := b.mustAttach(t, "vol", newDevice("vol", b.image))
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

// device is an image in memory whose reads can be made to hang or fail.
type device struct {
	id         string
	image      *bytes.Reader
	hang, fail atomic.Bool
}

func newDevice(id string, image []byte) *device {
	return &device{id: id, image: bytes.NewReader(image)}
}

func (d *device) ID() string   { return d.id }
func (d *device) Size() int64  { return d.image.Size() }
func (d *device) Close() error { return nil }

func (d *device) ReadRange(ctx context.Context, p []byte, off int64) (int, error) {
	if d.hang.Load() {
		<-ctx.Done()
		return 0, ctx.Err()
	}
	if d.fail.Load() {
		return 0, errors.New("device fails on purpose")
	}
	return d.image.ReadAt(p, off)
}

// makeImage makes a file-system image and returns the digests of its files.
func makeImage(t *testing.T, fsType string) ([]byte, map[string][32]byte) {
	t.Helper()
	tree, image := filepath.Join(t.TempDir(), "tree"), filepath.Join(t.TempDir(), "image")
	if err := os.Mkdir(tree, 0o755); err != nil {
		t.Fatal(err)
	}
	files := make(map[string][32]byte)
	random := rand.NewChaCha8([32]byte{1})
	for name, size := range map[string]int{"empty": 0, "small": 100, "page": 4096, "large": 3<<20 + 7} {
		data := make([]byte, size)
		_, _ = random.Read(data)
		if err := os.WriteFile(filepath.Join(tree, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
		files[name] = sha256.Sum256(data)
	}
	commands := map[string][]string{
		"erofs": {"mkfs.erofs", image, tree},
		"ext4":  {"mkfs.ext4", "-q", "-O", "^has_journal", "-d", tree, image, "16M"},
	}
	command := commands[fsType]
	if _, err := exec.LookPath(command[0]); err != nil {
		t.Skipf("%s is not installed", command[0])
	}
	if out, err := exec.CommandContext(t.Context(), command[0], command[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", command, err, out)
	}
	data, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	return data, files
}

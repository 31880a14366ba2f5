package volume_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/zap/zaptest"

	"github.com/referee-cri/referee/internal/registry"
	"github.com/referee-cri/referee/lazyblock"
	"github.com/referee-cri/referee/lazyblock/attach"
	"github.com/referee-cri/referee/lazyblock/volume"
)

var (
	errBroken = errors.New("broken for the test")
	errInUse  = errors.New("in use")
)

// world is what a Manager stands on. Its directories and its cached blobs
// outlive the Manager, as a node's do.
type world struct {
	root, state string
	driver      *driver
	blobs       *blobs
	open        func(id string) error // an opener's fault; nil: none
	device      func(*device)         // what is special about devices; nil: nothing
}

func newWorld(t *testing.T) *world {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: clearing a mount point calls umount(2)")
	}
	return &world{
		root: t.TempDir(), state: t.TempDir(),
		driver: &driver{served: make(map[string]string)},
		blobs: &blobs{
			opened: make(map[digest.Digest]int), cached: make(map[digest.Digest]bool),
			broken: make(map[digest.Digest]error), creds: make(map[digest.Digest]string),
		},
	}
}

func (w *world) manager(t *testing.T) *volume.Manager {
	t.Helper()
	m, err := volume.NewManager(volume.Options{
		Root: w.root, State: w.state, Driver: w.driver, Blobs: w.blobs,
		Formats:     map[string]volume.Opener{"plain": w.opener},
		GiveUpAfter: time.Minute,
		Log:         zaptest.NewLogger(t),
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// restart is what is left of the world when the daemon was killed and, with
// kept, something held the driver's connection meanwhile.
func (w *world) restart(kept bool) {
	w.driver = &driver{served: make(map[string]string), resumed: kept}
	w.blobs.mu.Lock()
	defer w.blobs.mu.Unlock()
	clear(w.blobs.opened)
}

func (w *world) opener(_ context.Context, form lazyblock.Form) (lazyblock.Volume, error) {
	if w.open != nil {
		if err := w.open(form.ID); err != nil {
			return lazyblock.Volume{}, err
		}
	}
	d := &device{RangeReader: form.Layers[0], id: form.ID}
	if w.device != nil {
		w.device(d)
	}
	return lazyblock.Volume{FSType: "plain", Primary: d}, nil
}

func (w *world) target(spec volume.Spec) string {
	return filepath.Join(w.state, "volumes", spec.ID(), "root")
}

func (w *world) record(spec volume.Spec) string {
	return filepath.Join(w.root, "volumes", spec.ID()+".json")
}

// expect fails the test unless these volumes, and no others, are attached, on
// record and have their layers open and cached.
func (w *world) expect(t *testing.T, m *volume.Manager, specs ...volume.Spec) {
	t.Helper()
	wantCached, wantIDs := make(map[digest.Digest]bool), make(map[string]bool)
	for _, spec := range specs {
		wantIDs[spec.ID()] = true
		for _, layer := range spec.Layers {
			wantCached[layer.Digest] = true
		}
		if !m.Mounted(spec.ID()) {
			t.Errorf("volume of %v is not mounted", spec.Layers)
		}
		if !exists(t, w.record(spec)) {
			t.Errorf("volume of %v has no record", spec.Layers)
		}
		if !exists(t, filepath.Join(w.target(spec), mark)) {
			t.Errorf("volume of %v is not attached", spec.Layers)
		}
	}
	if m.Empty() != (len(specs) == 0) {
		t.Errorf("Empty() = %t with %d volumes", m.Empty(), len(specs))
	}
	for _, dir := range []string{filepath.Join(w.root, "volumes"), filepath.Join(w.state, "volumes")} {
		entries, err := os.ReadDir(dir)
		if err != nil || len(entries) != len(specs) {
			t.Errorf("%s holds %v (%v), want %d", dir, entries, err, len(specs))
		}
	}
	w.driver.mu.Lock()
	defer w.driver.mu.Unlock()
	if len(w.driver.served) != len(wantIDs) {
		t.Errorf("driver serves %v, want %v", w.driver.served, wantIDs)
	}
	w.blobs.mu.Lock()
	defer w.blobs.mu.Unlock()
	for d, n := range w.blobs.opened {
		if n > 0 && !wantCached[d] {
			t.Errorf("layer %s is open %d times and no volume needs it", d, n)
		}
	}
	for d := range wantCached {
		if w.blobs.opened[d] == 0 || !w.blobs.cached[d] {
			t.Errorf("layer %s is open %d times, cached %t", d, w.blobs.opened[d], w.blobs.cached[d])
		}
	}
	for d := range w.blobs.cached {
		if !wantCached[d] {
			t.Errorf("layer %s is cached and no volume needs it", d)
		}
	}
}

func exists(t *testing.T, path string) bool {
	t.Helper()
	_, err := os.Stat(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return err == nil
}

// mark is the file that stands for a mounted file system.
const mark = "mounted"

// driver is an attach.Driver that puts one file where it would mount.
type driver struct {
	resumed bool // mounts of a former process can be adopted
	attach  func(ctx context.Context, v lazyblock.Volume, target string) error
	mounted func(target string) error // after attach
	detach  func(id string) error

	mu       sync.Mutex
	served   map[string]string // target by id
	attaches int
	adopted  int
}

var _ attach.Driver = (*driver)(nil)

func (d *driver) Name() string { return "fake" }

func (d *driver) Attach(ctx context.Context, id string, v lazyblock.Volume, target string) error {
	if d.attach != nil {
		if err := d.attach(ctx, v, target); err != nil {
			return err
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if where, twice := d.served[id]; twice {
		return fmt.Errorf("volume %s is attached at %s already", id, where)
	}
	d.attaches++
	d.served[id] = target
	if err := os.WriteFile(filepath.Join(target, mark), nil, 0o600); err != nil || d.mounted == nil {
		return err
	}
	return d.mounted(target)
}

func (d *driver) Adopt(id string, _ lazyblock.Volume, target string) (bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.resumed {
		return false, nil
	}
	if _, err := os.Stat(filepath.Join(target, mark)); err != nil {
		return false, nil
	}
	d.served[id] = target
	return true, nil
}

func (d *driver) Adopted() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.adopted++
}

func (d *driver) Detach(id, target string) error {
	if d.detach != nil {
		if err := d.detach(id); err != nil {
			return err
		}
	}
	if err := attach.Unmount(target); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.served, id)
	if err := os.Remove(filepath.Join(target, mark)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (d *driver) Close() error { return nil }

func (d *driver) attached() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.attaches
}

// blobs is a cache of blobs that are all zeroes.
type blobs struct {
	mu     sync.Mutex
	opened map[digest.Digest]int
	cached map[digest.Digest]bool
	broken map[digest.Digest]error
	creds  map[digest.Digest]string // repository and user of the last renewal
}

var _ volume.Blobs = (*blobs)(nil)

func (b *blobs) Open(_ string, _ registry.Credentials, desc ocispec.Descriptor) (volume.Blob, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.broken[desc.Digest]; err != nil {
		return nil, err
	}
	b.opened[desc.Digest]++
	b.cached[desc.Digest] = true
	return &blob{blobs: b, desc: desc}, nil
}

func (b *blobs) Remove(_ string, d digest.Digest) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.opened[d] > 0 {
		return errInUse
	}
	delete(b.cached, d)
	return nil
}

func (b *blobs) renewal(d digest.Digest) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.creds[d]
}

type blob struct {
	blobs *blobs
	desc  ocispec.Descriptor
	once  sync.Once
}

var (
	_ volume.Renewer = (*blob)(nil)
	_ volume.Meter   = (*blob)(nil)
)

func (b *blob) Size() int64 { return b.desc.Size }

func (b *blob) ReadRange(ctx context.Context, p []byte, _ int64) (int, error) {
	clear(p)
	return len(p), ctx.Err()
}

func (b *blob) Fetched() int64 { return b.desc.Size }

func (b *blob) Renew(repository string, creds registry.Credentials) error {
	b.blobs.mu.Lock()
	defer b.blobs.mu.Unlock()
	b.blobs.creds[b.desc.Digest] = repository + " " + creds.Username
	return nil
}

func (b *blob) Close() error {
	b.once.Do(func() {
		b.blobs.mu.Lock()
		defer b.blobs.mu.Unlock()
		b.blobs.opened[b.desc.Digest]--
	})
	return nil
}

// device is a device whose reads read may replace.
type device struct {
	lazyblock.RangeReader

	id   string
	read func() error // nil: as the layer below
}

func (d *device) ID() string { return d.id }

func (d *device) ReadRange(ctx context.Context, p []byte, off int64) (int, error) {
	if d.read != nil {
		if err := d.read(); err != nil {
			return 0, err
		}
	}
	return d.RangeReader.ReadRange(ctx, p, off)
}

func (d *device) Close() error { return nil }

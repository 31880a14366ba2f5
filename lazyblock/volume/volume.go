// Package volume keeps the mounted volumes of this node: it opens an artifact's
// layers, mounts them, and remembers on disk how to do it again after a restart
// or a reboot.
//
// It owns <root>/volumes (one record a volume) and <state>/volumes (where they are
// mounted). It never talks to containerd and decides nothing: a volume lives
// while somebody pins it or a graft stands on it, and goes with Sweep.
//
// Goroutines: none of its own.
package volume

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/referee-cri/referee/internal/atomicfile"
	"github.com/referee-cri/referee/internal/contain"
	"github.com/referee-cri/referee/internal/registry"
	"github.com/referee-cri/referee/lazyblock"
	"github.com/referee-cri/referee/lazyblock/attach"
)

// MaxWord bounds Spec.Word, in bytes: room for a signature with its certificates.
const MaxWord = 64 << 10

// maxVouchers bounds Spec.Vouchers. A node serves fewer repositories that hold
// one image; more are somebody's game.
const maxVouchers = 256

// Spec is all that is needed to open a volume again, and on whose word it is
// what it claims to be.
type Spec struct {
	Format     string               `json:"format"`
	Repository string               `json:"repository"` // where its blobs are: "host/path"
	Reference  string               `json:"reference"`  // the image it was first attached for, for people
	Artifact   ocispec.Descriptor   `json:"artifact"`   // the referrer's manifest
	Layers     []ocispec.Descriptor `json:"layers"`     // bottom first
	// Tables are further blobs without which the layers cannot be read.
	Tables []ocispec.Descriptor `json:"tables,omitempty"`

	// Chain is the chain ID whose content the volume is said to be. The word of
	// Repository, Vouchers and Word is for that chain only: somebody else's image
	// may claim the same layers to be another.
	Chain digest.Digest `json:"chain,omitempty"`
	// Vouchers are further repositories that attach the same artifact to an image
	// with that chain.
	Vouchers []string `json:"vouchers,omitempty"`
	// Word is what else speaks for the artifact, JSON that only the caller
	// understands; at most MaxWord bytes. White space in it may change.
	Word json.RawMessage `json:"word,omitempty"`
}

// ID names the volume: the same layers in the same format, said by the same
// registry to be the same chain. What another registry serves under the same
// digests is another volume, because lazy reads are not compared with them.
func (s Spec) ID() string {
	h := sha256.New()
	_, _ = io.WriteString(h, s.Format+"\n"+registry.HostOf(s.Repository)+"\n"+s.Chain.String())
	for _, layer := range s.Layers {
		_, _ = io.WriteString(h, "\n"+layer.Digest.String())
		if s.Format != "overlaybd" { // of which nothing else says what the digest does not
			_, _ = fmt.Fprintf(h, " %q", layer.MediaType)
			writeSorted(h, layer.Annotations)
		}
	}
	for _, table := range s.Tables {
		_, _ = io.WriteString(h, "\ntable "+table.Digest.String())
		writeSorted(h, table.Annotations)
	}
	return hex.EncodeToString(h.Sum(nil))[:32]
}

// writeSorted writes annotations in the order of their names, quoted.
func writeSorted(w io.Writer, annotations map[string]string) {
	for _, name := range slices.Sorted(maps.Keys(annotations)) {
		_, _ = fmt.Fprintf(w, "\n%q=%q", name, annotations[name])
	}
}

// Blobs are all blobs that the volume needs: layers, then tables.
func (s Spec) Blobs() []ocispec.Descriptor { return slices.Concat(s.Layers, s.Tables) }

// Blob is a registry blob with random access; what was read once is kept.
type Blob interface {
	lazyblock.RangeReader
	io.Closer
}

// Meter is what a Blob may also be: it counts the bytes it had to fetch.
type Meter interface{ Fetched() int64 }

// Asker is what a Blob may also be: it counts the requests it made.
type Asker interface{ Requests() int64 }

// Observer is told what becomes of reads of mounted volumes, by many goroutines
// at once. It must not block.
type Observer interface {
	// Read ended after so long. waited: for the registry. An error is why the
	// reader got an I/O error.
	Read(took time.Duration, waited bool, err error)
	// Corrupt tells that bytes came and were wrong; they are asked for again.
	Corrupt()
}

// Renewer is what a Blob may also be: reads that begin, or are tried again, after
// Renew ask that repository first, with these credentials.
type Renewer interface {
	Renew(repository string, creds registry.Credentials) error
}

// Report tells what mounting a volume took. All is zero where it was mounted already.
type Report struct {
	Open    time.Duration // reading the layers' indexes
	Mount   time.Duration // mounting and probing
	Fetched int64         // bytes from the registry
	// Requests is how many were made for them.
	Requests int64
}

// Blobs opens blobs and forgets them. Blobs of two registries share nothing,
// whatever their digests.
type Blobs interface {
	Open(repository string, creds registry.Credentials, blob ocispec.Descriptor) (Blob, error)
	Remove(repository string, blob digest.Digest) error
}

// Opener turns a form into a volume. Closing the volume leaves the form's blobs
// open.
type Opener func(ctx context.Context, form lazyblock.Form) (lazyblock.Volume, error)

// Mounted is a volume that can be read.
type Mounted struct {
	ID    string
	Spec  Spec
	Blobs []Blob // of Spec.Blobs(), in order
	Root  string // where it is mounted
	Hints []lazyblock.Hint
	Paths []string // relative to Root; see lazyblock.Volume
}

// Companion is told of every volume that is mounted, after a restart again.
type Companion interface {
	// Opened is called when the volume can be read. It returns at once; what it
	// begins may read the blobs until done is called, which returns when nothing
	// uses them any more.
	Opened(m Mounted) (done func())
}

// Options of a Manager.
type Options struct {
	Root    string // durable: records are in <Root>/volumes
	State   string // gone after a reboot: mounts are in <State>/volumes
	Driver  attach.Driver
	Blobs   Blobs
	Formats map[string]Opener
	// GiveUpAfter is how long a reader of a mounted volume waits, where what came
	// for it was wrong, before it gets an I/O error.
	GiveUpAfter time.Duration
	Companions  []Companion
	Files       Files    // nil: volumes do not settle
	Observer    Observer // nil: nobody is told
	Log         *zap.Logger
}

// Manager keeps the volumes. It is safe for concurrent use.
type Manager struct {
	records records
	mounts  string
	driver  attach.Driver
	blobs   Blobs
	formats map[string]Opener
	log     *zap.Logger

	giveUpAfter time.Duration
	companions  []Companion
	files       Files
	observer    Observer

	mu      sync.Mutex
	volumes map[string]*entry // those that are pinned or mounted
	pins    uint64            // how many pins there ever were
}

// entry is one volume. busy is held while it is mounted or unmounted.
type entry struct {
	id     string
	busy   chan struct{} // capacity 1
	pins   int           // under Manager.mu
	pinned uint64        // Manager.pins when it was last pinned; under Manager.mu
	opened *opened       // nil: not mounted; under busy and, for reading, Manager.mu
}

// NewManager returns a Manager and makes its directories.
func NewManager(opts Options) (*Manager, error) {
	if opts.Log == nil {
		opts.Log = zap.NewNop()
	}
	m := &Manager{
		records: records{dir: filepath.Join(opts.Root, "volumes")},
		mounts:  filepath.Join(opts.State, "volumes"),
		driver:  opts.Driver,
		blobs:   opts.Blobs,
		formats: opts.Formats,
		log:     opts.Log,
		volumes: make(map[string]*entry),

		giveUpAfter: opts.GiveUpAfter,
		companions:  opts.Companions,
		files:       opts.Files,
		observer:    opts.Observer,
	}
	for _, dir := range []string{m.records.dir, m.mounts} {
		// containerd's user-namespaced pods reach the mounts through their own clones:
		// the directories need no more than root's access.
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return nil, fmt.Errorf("make volume directory: %w", err)
		}
	}
	if err := atomicfile.RemoveUnfinished(m.records.dir); err != nil {
		return nil, fmt.Errorf("clean volume records: %w", err)
	}
	return m, nil
}

// Dir is the directory under which volumes are mounted: <Dir>/<id>/root.
func (m *Manager) Dir() string { return m.mounts }

// CanOpen reports whether there is an opener for format.
func (m *Manager) CanOpen(format string) bool { return m.formats[format] != nil }

// Mount opens, mounts and probes the volume unless it is mounted already, writes
// its record, and pins it until release is called.
func (m *Manager) Mount(ctx context.Context, spec Spec, creds registry.Credentials) (release func(), report Report, err error) {
	id := spec.ID()
	e := m.pin(id)
	unpin := sync.OnceFunc(func() { m.unpin(e) })
	defer func() {
		if err != nil {
			unpin()
		}
	}()
	if err := spec.check(); err != nil {
		return nil, report, fmt.Errorf("mount volume %s: %w", id, err)
	}
	if err := e.lock(ctx); err != nil {
		return nil, report, fmt.Errorf("wait for volume %s: %w", id, err)
	}
	defer e.unlock()
	if e.opened != nil {
		return unpin, report, e.opened.renew(spec.Repository, creds)
	}
	opened, err := m.mount(ctx, id, spec, creds, &report)
	if err != nil {
		return nil, report, err
	}
	if err := m.records.write(id, spec); err != nil {
		// Without its record nobody could mount it again after a restart.
		err = errors.Join(err, m.detach(id), opened.close())
		m.free(spec)
		return nil, report, err
	}
	m.set(e, opened)
	return unpin, report, nil
}

// Renew gives a mounted volume new credentials for repository. A volume that is
// not mounted, or comes from another registry, is left alone.
func (m *Manager) Renew(ctx context.Context, id, repository string, creds registry.Credentials) error {
	e := m.pin(id)
	defer m.unpin(e)
	if err := e.lock(ctx); err != nil {
		return fmt.Errorf("wait for volume %s: %w", id, err)
	}
	defer e.unlock()
	if e.opened == nil || registry.HostOf(repository) != e.opened.host {
		return nil
	}
	return e.opened.renew(repository, creds)
}

// Asked is what was asked of the registry for a mounted volume since it was
// opened, zero where it is not mounted.
func (m *Manager) Asked(id string) (requests, bytes int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e := m.volumes[id]; e != nil && e.opened != nil {
		return asked(e.opened.blobs)
	}
	return 0, 0
}

// Mounted reports whether the volume is mounted now.
func (m *Manager) Mounted(id string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.volumes[id]
	return e != nil && e.opened != nil
}

// How volumes are brought back: several at a time, and none may hold up the
// others, or the daemon's start, because its registry does not answer. Mostly
// the cache has what is needed to open one.
const (
	restoreTimeout = 5 * time.Second
	restoreAtOnce  = 8
)

// Restore mounts the recorded volumes of ids that are not mounted. Where one
// fails the others go on; the error names all that failed.
func (m *Manager) Restore(ctx context.Context, ids []string) error {
	errs := make([]error, len(ids))
	var group errgroup.Group
	group.SetLimit(restoreAtOnce)
	for i, id := range ids {
		if m.Mounted(id) {
			continue
		}
		group.Go(func() error {
			errs[i] = contain.Panic(m.log, "restoring a volume", func() error { return m.restore(ctx, id) })
			return nil
		})
	}
	_ = group.Wait() // every error is in errs
	return errors.Join(errs...)
}

func (m *Manager) restore(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, restoreTimeout)
	defer cancel()
	e := m.pin(id)
	defer m.unpin(e)
	if err := e.lock(ctx); err != nil {
		return fmt.Errorf("restore volume %s: %w", id, err)
	}
	defer e.unlock()
	if e.opened != nil {
		return nil // a pull was faster
	}
	spec, err := m.records.read(id)
	if err != nil {
		return fmt.Errorf("restore volume %s: %w", id, err)
	}
	opened, err := m.mount(ctx, id, spec, registry.Credentials{}, &Report{})
	if err != nil {
		return fmt.Errorf("restore volume %s: %w", id, err)
	}
	m.set(e, opened)
	m.log.Info("volume mounted again", zap.String("volume", id), zap.String("ref", spec.Reference))
	return nil
}

// Restored tells the driver that every volume that anything stands on is mounted:
// nobody else will come for what a former process served.
func (m *Manager) Restored() { m.driver.Adopted() }

// Empty reports whether no volume is mounted.
func (m *Manager) Empty() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range m.volumes {
		if e.opened != nil {
			return false
		}
	}
	return true
}

// Close closes what volumes hold in this process. Mounts stay.
func (m *Manager) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var errs []error
	for _, e := range m.volumes {
		if e.opened != nil {
			errs = append(errs, e.opened.close())
			e.opened = nil
		}
	}
	return errors.Join(errs...)
}

func (m *Manager) pin(id string) *entry {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.volumes[id]
	if e == nil {
		e = &entry{id: id, busy: make(chan struct{}, 1)}
		m.volumes[id] = e
	}
	m.pins++
	e.pins++
	e.pinned = m.pins
	return e
}

func (m *Manager) unpin(e *entry) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e.pins--; e.pins == 0 && e.opened == nil {
		delete(m.volumes, e.id)
	}
}

func (m *Manager) set(e *entry, o *opened) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e.opened = o
}

func (e *entry) lock(ctx context.Context) error {
	select {
	case e.busy <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (e *entry) unlock() { <-e.busy }

package complete

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/zap"

	"github.com/referee-cri/referee/internal/contain"
	"github.com/referee-cri/referee/lazyblock"
	"github.com/referee-cri/referee/lazyblock/volume"
)

// Options of a Companion.
type Options struct {
	Root  string        // durable: see the package's comment
	Rate  int64         // bytes a second, of all volumes; 0: nothing is fetched
	Delay time.Duration // since readers of a volume last waited for its registry

	// Spare says why n more bytes should not be kept now; nil is room.
	Spare func(n int64) error
	// Replace puts the image's own content in the place of a quarantined form; it
	// is called again, less and less often, until it returns nil. nil: nobody can.
	Replace func(ctx context.Context, q Quarantine) error
	// Settle is called for volumes that are whole. nil: they stay as they are.
	Settle Settle

	Log *zap.Logger
}

// Settle copies what a whole volume's devices hold to local files. pace is called
// after each n bytes, and may wait. It is tried again after an error.
type Settle func(ctx context.Context, id string, pace func(ctx context.Context, n int64) error) error

// Companion completes mounted volumes. It is safe for concurrent use.
type Companion struct {
	opts       Options
	log        *zap.Logger
	quarantine *quarantine

	stop    context.CancelFunc
	running sync.WaitGroup
	wake    chan struct{} // capacity 1: a volume came

	mu      sync.Mutex
	volumes map[string]*mounted
	stats   Stats // of the past
}

// Stats is what a Companion does now and has done since it was made.
type Stats struct {
	Incomplete   int   // mounted volumes that are not whole yet
	Quarantined  int   // volumes whose bytes were wrong
	Unreplaced   int   // of them, for which the image's own layers are not in place yet
	SealedBlobs  int64 // compared with their digest, and the same
	SealedBytes  int64
	OtherContent int64 // blobs that had another content than their digest says
}

// Stats returns the numbers of now.
func (c *Companion) Stats() Stats {
	c.mu.Lock()
	stats := c.stats
	stats.Incomplete = len(c.volumes)
	c.mu.Unlock()
	stats.Quarantined, stats.Unreplaced = c.quarantine.count()
	return stats
}

// count adds to what was done.
func (c *Companion) count(add func(*Stats)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	add(&c.stats)
}

var _ volume.Companion = (*Companion)(nil)

// completable is a blob that can be completed. See cache.Blob.
type completable interface {
	Size() int64
	Cached() int64
	Missing(off int64) (at, n int64)
	Prefetch(ctx context.Context, off, n int64) error
	Waited() (here, anywhere time.Time)
	Sealed() bool
	Seal(ctx context.Context, want digest.Digest, pace func(ctx context.Context, n int64) error) error
	lazyblock.Invalidator
}

// mounted is a volume that can be read now.
type mounted struct {
	id     string
	spec   volume.Spec
	wanted []ocispec.Descriptor // of spec
	blobs  []completable        // of wanted, in order
	log    *zap.Logger

	ctx            context.Context //nolint:containedctx // ends with done, which is no call
	using          sync.Mutex      // held while the blobs are used
	due            time.Time       // when to look at it again; under Companion.mu
	pauses         int             // failures in a row
	told           string          // why it waits, as last logged
	whole, settled bool
	noted          time.Time // when its state was last written

	cleansed bool // its wrong blobs were forgotten
}

// New returns a Companion and starts its work.
func New(opts Options) (*Companion, error) {
	if opts.Log == nil {
		opts.Log = zap.NewNop()
	}
	if opts.Spare == nil {
		opts.Spare = func(int64) error { return nil }
	}
	if err := os.MkdirAll(filepath.Dir(statePath(opts.Root, "")), 0o711); err != nil {
		return nil, fmt.Errorf("make volume directory: %w", err)
	}
	q, err := openQuarantine(opts.Root, opts.Log)
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	c := &Companion{
		opts: opts, log: opts.Log, quarantine: q, stop: stop,
		wake: make(chan struct{}, 1), volumes: make(map[string]*mounted),
	}
	c.start("completing volumes", func() { c.run(ctx) })
	c.start("replacing quarantined forms", func() { c.replace(ctx) })
	return c, nil
}

// start runs f until it returns; Close waits for it.
func (c *Companion) start(doing string, f func()) {
	c.running.Go(func() {
		_ = contain.Panic(c.log, doing, func() error { f(); return nil })
	})
}

// Close ends the work and waits for it.
func (c *Companion) Close() {
	c.stop()
	c.running.Wait()
}

// Opened implements [volume.Companion].
func (c *Companion) Opened(opened volume.Mounted) (done func()) {
	id, spec := opened.ID, opened.Spec
	if c.opts.Rate <= 0 {
		return func() {}
	}
	m := &mounted{id: id, spec: spec, wanted: spec.Blobs(), log: c.log.With(zap.String("volume", id), zap.String("ref", spec.Reference))}
	for _, b := range opened.Blobs {
		cached, ok := b.(completable)
		if !ok {
			return func() {} // read without the cache: nowhere to fetch to
		}
		m.blobs = append(m.blobs, cached)
	}
	ctx, cancel := context.WithCancel(context.Background())
	m.ctx, m.due = ctx, time.Now().Add(c.opts.Delay)
	c.mu.Lock()
	c.volumes[id] = m
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
	return func() {
		cancel()
		c.mu.Lock()
		if c.volumes[id] == m {
			delete(c.volumes, id)
		}
		c.mu.Unlock()
		m.using.Lock() // the worker has let go
		defer m.using.Unlock()
	}
}

// next returns the volume that has been due for longest, else how long until one is.
func (c *Companion) next() (m *mounted, in time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, other := range c.volumes {
		if m == nil || other.due.Before(m.due) {
			m = other
		}
	}
	if m == nil {
		return nil, time.Hour
	}
	if in = time.Until(m.due); in > 0 {
		return nil, in
	}
	return m, 0
}

// later has m looked at again after a while; zero: never.
func (c *Companion) later(m *mounted, in time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if in > 0 {
		m.due = time.Now().Add(in)
	} else if c.volumes[m.id] == m {
		delete(c.volumes, m.id)
	}
}

func (c *Companion) run(ctx context.Context) {
	for ctx.Err() == nil {
		m, in := c.next()
		if m != nil {
			c.visit(ctx, m)
			continue
		}
		timer := time.NewTimer(in)
		select {
		case <-ctx.Done():
		case <-c.wake:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// The pause after something went wrong doubles from one to the other.
const (
	minPause = 5 * time.Second
	maxPause = 5 * time.Minute
)

// visit brings one volume as far as that goes now.
func (c *Companion) visit(ctx context.Context, m *mounted) {
	m.using.Lock()
	defer m.using.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(m.ctx, cancel)() //nolint:contextcheck // the volume's life bounds it as well
	if ctx.Err() != nil {
		c.later(m, 0)
		return
	}
	err := contain.Panic(m.log, "completing a volume", func() error { return c.complete(ctx, m) })
	var busy *busyError
	switch {
	case ctx.Err() != nil:
		c.later(m, 0)
	case err == nil:
		c.note(m, "")
		c.settle(ctx, m)
	case errors.As(err, &busy):
		m.pauses = 0
		c.later(m, busy.in)
		c.note(m, err.Error())
	default:
		pause := min(minPause<<min(m.pauses, 10), maxPause)
		m.pauses++
		c.later(m, pause)
		if m.told != err.Error() {
			m.told = err.Error()
			m.log.Warn("volume not completed yet", zap.Duration("retry", pause), zap.Error(err))
		}
		c.note(m, err.Error())
	}
}

// settle has a whole volume settled, and looks at it again where that is not
// possible now.
func (c *Companion) settle(ctx context.Context, m *mounted) {
	if c.opts.Settle == nil || c.quarantine.holds(m.id) {
		c.later(m, 0)
		return
	}
	err := contain.Panic(m.log, "settling a volume", func() error {
		return c.opts.Settle(ctx, m.id, func(ctx context.Context, n int64) error { return c.pace(ctx, n/verifyFactor) })
	})
	switch {
	case ctx.Err() != nil:
		c.later(m, 0)
	case err == nil:
		c.later(m, 0)
		m.settled = true
		c.note(m, "")
	default:
		c.later(m, maxPause)
		m.log.Info("volume not settled yet", zap.Duration("retry", maxPause), zap.Error(err))
		c.note(m, err.Error())
	}
}

// note writes down how far a volume is.
func (c *Companion) note(m *mounted, waiting string) {
	m.noted = time.Now()
	state := &State{Blobs: len(m.blobs), Settled: m.settled, Waiting: waiting, Time: m.noted.UTC()}
	for _, b := range m.blobs {
		state.Size += b.Size()
		state.Cached += b.Cached()
		if b.Sealed() {
			state.Sealed++
		}
	}
	if err := writeJSON(statePath(c.opts.Root, m.id), state); err != nil {
		m.log.Debug("completion not noted", zap.Error(err))
	}
}

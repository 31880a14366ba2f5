package trace

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/referee-cri/referee/internal/contain"
	"github.com/referee-cri/referee/lazyblock"
	"github.com/referee-cri/referee/lazyblock/volume"
)

// maxRecordings is how many starts add to a trace: the first tells most, the next
// what the first was too short for.
const maxRecordings = 3

// Options of a Companion. Zero durations and sizes have the defaults.
type Options struct {
	Record, Replay bool

	// Find returns what may be traces of the form, the best first, as other nodes
	// recorded them. It is asked where nothing is known of a form. nil: nobody knows.
	Find func(ctx context.Context, spec volume.Spec, blobs []volume.Blob) ([][]byte, error)

	Quiet       time.Duration // a start is over when nothing new was read for so long, default 10 s
	Longest     time.Duration // or when it has taken so long, default 2 min
	MaxRecorded int64         // bytes of a trace, default 256 MiB
	MaxReplayed int64         // bytes fetched by a replay, default 512 MiB

	Log *zap.Logger
}

// Companion records and replays the starts of mounted volumes. It is safe for
// concurrent use.
type Companion struct {
	store *Store
	opts  Options

	recordings, replays, replayFailures, replayedBytes atomic.Int64
}

// Stats is what a Companion has done since it was made.
type Stats struct {
	Recordings     int64 // starts that added to a trace
	Replays        int64 // that came to their end
	ReplayFailures int64
	ReplayedBytes  int64 // asked for by both
}

// Stats returns the numbers of now.
func (c *Companion) Stats() Stats {
	return Stats{
		Recordings: c.recordings.Load(), Replays: c.replays.Load(),
		ReplayFailures: c.replayFailures.Load(), ReplayedBytes: c.replayedBytes.Load(),
	}
}

var _ volume.Companion = (*Companion)(nil)

// New returns a Companion that keeps its traces in store.
func New(store *Store, opts Options) *Companion {
	if opts.Log == nil {
		opts.Log = zap.NewNop()
	}
	if opts.Quiet == 0 {
		opts.Quiet = 10 * time.Second
	}
	if opts.Longest == 0 {
		opts.Longest = 2 * time.Minute
	}
	if opts.MaxRecorded == 0 {
		opts.MaxRecorded = 256 << 20
	}
	if opts.MaxReplayed == 0 {
		opts.MaxReplayed = 512 << 20
	}
	return &Companion{store: store, opts: opts}
}

// observable is a blob that tells of its reads.
type observable interface {
	Observe(f func(off, n int64))
}

// prefetcher is a blob that can be fetched without being read.
type prefetcher interface {
	Prefetch(ctx context.Context, off, n int64) error
}

// Opened implements [volume.Companion].
func (c *Companion) Opened(m volume.Mounted) (done func()) {
	spec, blobs := m.Spec, m.Blobs
	log := c.opts.Log.With(zap.String("volume", m.ID), zap.String("ref", spec.Reference))
	known, err := c.store.Get(spec.Repository, spec.Artifact.Digest)
	switch {
	case errors.Is(err, ErrNone):
		known = &Trace{}
	case err != nil:
		log.Warn("start-up trace not usable, recording a new one", zap.Error(err))
		known = &Trace{}
	case !known.fits(spec.Blobs()):
		log.Warn("start-up trace is of other layers, recording a new one")
		known = &Trace{}
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	run := func(doing string, f func(context.Context)) {
		running.Go(func() {
			_ = contain.Panic(log, doing, func() error { f(ctx); return nil })
		})
	}
	switch {
	case !c.opts.Replay:
	case len(known.Ranges) > 0:
		run("replaying a start", func(ctx context.Context) {
			c.replay(ctx, log, spec, blobs, requests(known.Ranges, c.most(known.From, spec)))
		})
	default:
		run("finding a start-up trace", func(ctx context.Context) {
			var found []Range
			if c.opts.Find != nil {
				found = c.find(ctx, log, spec, blobs)
			}
			if len(found) == 0 {
				found = hinted(m.Hints, spec)
				c.readNamed(ctx, log, m)
			}
			if len(found) > 0 {
				c.replay(ctx, log, spec, blobs, requests(found, c.most(FromReferrer, spec)))
			}
		})
	}
	if c.opts.Record && known.Recordings < maxRecordings {
		most := c.opts.MaxRecorded
		if known.From == FromReferrer {
			most += known.Bytes() // what others recorded takes no room from what is recorded here
		}
		r := newRecording(spec.Blobs(), known.Ranges, most)
		observe(blobs, r) // from now on, not from when the goroutine gets to run
		run("recording a start", func(ctx context.Context) {
			r.wait(ctx, c.opts.Quiet, c.opts.Longest)
			observe(blobs, nil)
			c.keep(log, spec, r.began, r.taken())
		})
	}
	return func() {
		cancel()
		running.Wait()
	}
}

// observe has r told of the blobs' reads, or nobody.
func observe(blobs []volume.Blob, r *recording) {
	for i, b := range blobs {
		o, ok := b.(observable)
		switch {
		case !ok:
		case r == nil:
			o.Observe(nil)
		default:
			o.Observe(func(off, n int64) { r.touch(i, off, n) })
		}
	}
}

// keep adds what a start has read to the artifact's trace.
func (c *Companion) keep(log *zap.Logger, spec volume.Spec, began time.Time, ranges []Range) {
	if len(ranges) == 0 {
		return // nothing was started, or nothing new was read
	}
	err := c.store.Update(spec.Repository, spec.Artifact.Digest, func(t *Trace) {
		if !t.fits(spec.Blobs()) {
			*t = Trace{Version: Version, Artifact: spec.Artifact.Digest}
		}
		blobs := spec.Blobs()
		for _, layer := range blobs[min(len(t.Layers), len(blobs)):] {
			t.Layers = append(t.Layers, Layer{layer.Digest, layer.Size})
		}
		added := unknown(ranges, t.Ranges) // a trace may have been found meanwhile
		t.Ranges = append(t.Ranges, added[:min(len(added), maxRanges-len(t.Ranges))]...)
		if t.Recordings++; t.Began.IsZero() {
			t.Began = began.UTC()
		}
	})
	if err != nil {
		log.Warn("start-up trace not kept", zap.Error(err))
		return
	}
	c.recordings.Add(1)
	log.Debug("start-up recorded", zap.Int("ranges", len(ranges)), zap.Int64("bytes", sum(ranges)))
}

// readNamed has the files read ahead that the form's publisher names. Nobody waits
// for that: it uses the mount, not the blobs, and ends with the kernel's last read.
func (c *Companion) readNamed(ctx context.Context, log *zap.Logger, m volume.Mounted) {
	if len(m.Paths) == 0 {
		return
	}
	go func() {
		_ = contain.Panic(log, "reading named files ahead", func() error {
			files, bytes, err := readPaths(ctx, m.Root, m.Paths, c.most(FromReferrer, m.Spec))
			log.Debug("named files read ahead", zap.Int("files", files), zap.Int64("bytes", bytes), zap.Error(err))
			return nil
		})
	}()
}

// replay fetches what former starts have read.
func (c *Companion) replay(ctx context.Context, log *zap.Logger, spec volume.Spec, blobs []volume.Blob, todo []Range) {
	begin := time.Now()
	made, bytes, err := replay(lazyblock.WithPriority(ctx, lazyblock.Background), todo, func(ctx context.Context, r Range) error {
		if r.Layer >= len(blobs) {
			return nil // of a layer that this volume is without
		}
		p, ok := blobs[r.Layer].(prefetcher)
		if !ok {
			return nil // not cached: nowhere to fetch to
		}
		return p.Prefetch(ctx, r.Offset, r.Length)
	})
	if ctx.Err() != nil {
		return // the volume went
	}
	outcome := &Replay{Time: begin.UTC(), Requests: made, Bytes: bytes, Seconds: time.Since(begin).Seconds()}
	c.replayedBytes.Add(bytes)
	if err != nil {
		c.replayFailures.Add(1)
		outcome.Error = err.Error()
		log.Warn("start-up trace not replayed to its end", zap.Error(err))
	} else {
		c.replays.Add(1)
		log.Debug("start-up trace replayed", zap.Int("requests", made), zap.Int64("bytes", bytes), zap.Duration("took", time.Since(begin)))
	}
	if err := c.store.Update(spec.Repository, spec.Artifact.Digest, func(t *Trace) { t.Replayed = outcome }); err != nil {
		log.Warn("replay not noted", zap.Error(err))
	}
}

package volume

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/referee-cri/referee/internal/pause"
	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/lazyblock"
)

// The pause before a device whose bytes were wrong is read again doubles from
// one to the other.
const (
	minPause = 100 * time.Millisecond
	maxPause = 5 * time.Second
)

// tellEvery is how often failing reads of one volume are worth a line in the log.
const tellEvery = 30 * time.Second

// device is a device as it is given to the kernel, which can neither pass on a
// deadline nor say more of an error than EIO.
//
// While the volume is being attached somebody waits who has another way: reads
// get the deadline of that, and the first that fails is remembered. Afterwards
// readers are patient. What the network fails to bring is asked for again below;
// bytes that came and were wrong are asked for again here.
type device struct {
	id   string
	size int64

	using  sync.RWMutex // held for each read of source
	source lazyblock.Device

	reading     *reading
	giveUpAfter time.Duration

	mu    sync.Mutex
	given [8]givenUp // a ring
	next  int
}

func newDevice(source lazyblock.Device, r *reading, giveUpAfter time.Duration) *device {
	return &device{id: source.ID(), size: source.Size(), source: source, reading: r, giveUpAfter: giveUpAfter}
}

// ID implements lazyblock.Device.
func (d *device) ID() string { return d.id }

// Size implements lazyblock.Device.
func (d *device) Size() int64 { return d.size }

// Close closes the source.
func (d *device) Close() error { return d.current().Close() }

// current is where bytes come from now.
func (d *device) current() lazyblock.Device {
	d.using.RLock()
	defer d.using.RUnlock()
	return d.source
}

// swap has everything read from another source of the same bytes, and returns the
// former one, which nobody reads any more.
func (d *device) swap(source lazyblock.Device) (former lazyblock.Device) {
	d.using.Lock()
	defer d.using.Unlock()
	former, d.source = d.source, source
	return former
}

func (d *device) read(ctx context.Context, p []byte, off int64) (int, error) {
	d.using.RLock()
	defer d.using.RUnlock()
	return d.source.ReadRange(ctx, p, off)
}

// givenUp is a range whose reader got an error.
type givenUp struct {
	off, end int64
	at       time.Time
}

// minBrief is how long a range that was given up is tried for at least.
const minBrief = 500 * time.Millisecond

// gaveUp tells whether a part of the range, or what it borders on, was given up
// lately. The kernel reads up to five times before it believes an error (each of
// the two page caches over a loop device first reads ahead, then the one page;
// Linux 6.18), and may read a page and the next one after the other for one
// reader. A process must not wait so many times as long as was promised.
func (d *device) gaveUp(off int64, n int) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, g := range d.given {
		if g.off <= off+int64(n) && off <= g.end && time.Since(g.at) < d.giveUpAfter {
			return true
		}
	}
	return false
}

func (d *device) giveUp(off int64, n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.given[d.next%len(d.given)] = givenUp{off, off + int64(n), time.Now()}
	d.next++
}

// reading is what the devices of one volume share.
type reading struct {
	log      *zap.Logger
	observer Observer // nil: nobody is told

	mu       sync.Mutex
	deadline time.Time // of attaching; zero: none, or it is over
	failure  error     // of the first read that failed while attaching
	told     time.Time // when a failure was last logged
	untold   int       // failures since
}

// serve puts the devices of v, the primary one first, behind one reading.
func serve(v *lazyblock.Volume, giveUpAfter time.Duration, observer Observer, log *zap.Logger) ([]*device, *reading) {
	r := &reading{log: log, observer: observer}
	primary := newDevice(v.Primary, r, giveUpAfter)
	devices := []*device{primary}
	v.Primary = primary
	extra := make([]lazyblock.Device, len(v.Extra))
	for i, source := range v.Extra {
		d := newDevice(source, r, giveUpAfter)
		devices = append(devices, d)
		extra[i] = d
	}
	v.Extra = extra
	return devices, r
}

// attaching begins the haste: the kernel is about to read for somebody who waits
// no longer than ctx. Never call it for a volume that containers read already.
func (r *reading) attaching(ctx context.Context) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.deadline, _ = ctx.Deadline()
}

// attached ends the haste: readers have no other way from now on.
func (r *reading) attached() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.deadline = time.Time{}
}

func (r *reading) hurry() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.deadline
}

// keep remembers the first failure.
func (r *reading) keep(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.failure == nil && err != nil && !errors.Is(err, io.EOF) {
		r.failure = err
	}
}

// tell logs a failure: nobody else learns more of it than EIO.
func (r *reading) tell(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if time.Since(r.told) < tellEvery {
		r.untold++
		return
	}
	r.log.Warn("a container's read failed", zap.Int("untold", r.untold), zap.Error(err))
	r.told, r.untold = time.Now(), 0
}

// explain adds to err, if attaching failed with one, what the kernel met and
// could not tell.
func (r *reading) explain(err error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil {
		return nil
	}
	switch code := reason.Of(r.failure); code {
	case reason.None, reason.Internal, reason.Cancelled, reason.BudgetExceeded:
		return err
	default:
		return &reason.Error{Code: code, Err: fmt.Errorf("%w: %w", err, r.failure)}
	}
}

// ReadRange implements lazyblock.RangeReader.
func (d *device) ReadRange(ctx context.Context, p []byte, off int64) (int, error) {
	if deadline := d.reading.hurry(); !deadline.IsZero() {
		ctx, cancel := context.WithDeadline(ctx, deadline)
		defer cancel()
		n, err := d.read(ctx, p, off)
		d.reading.keep(err)
		return n, err
	}
	if d.reading.observer == nil {
		return d.readForReader(ctx, p, off)
	}
	begin := time.Now()
	ctx, waited := lazyblock.Watched(ctx)
	n, err := d.readForReader(ctx, p, off)
	switch {
	case n == len(p) || errors.Is(err, io.EOF):
		d.reading.observer.Read(time.Since(begin), waited(), nil)
	case ctx.Err() == nil: // not: the volume is gone
		d.reading.observer.Read(time.Since(begin), waited(), err)
	}
	return n, err
}

// readForReader reads as patiently as the range deserves.
func (d *device) readForReader(ctx context.Context, p []byte, off int64) (int, error) {
	known := d.gaveUp(off, len(p))
	read := d.readPatiently
	if known {
		read = d.readBriefly
	}
	n, err := read(ctx, p, off)
	switch {
	case n == len(p) || errors.Is(err, io.EOF):
		if known {
			d.recovered(off, len(p))
		}
	case ctx.Err() == nil: // not: the volume is gone
		d.giveUp(off, len(p))
		d.reading.tell(err)
	}
	return n, err
}

// readPatiently reads for as long as was promised. What the network does not
// bring is asked for again below; what came and is wrong is asked for here: the
// registry or proxy that corrupts it may be one of several, or be repaired.
func (d *device) readPatiently(ctx context.Context, p []byte, off int64) (int, error) {
	return d.readUntil(ctx, time.Now().Add(d.giveUpAfter), p, off, func(err error) bool {
		return reason.Of(err) == reason.FormatCorrupt
	})
}

// readBriefly reads what was given up lately: the same reader may be asking.
func (d *device) readBriefly(ctx context.Context, p []byte, off int64) (int, error) {
	deadline := time.Now().Add(max(d.giveUpAfter/8, minBrief))
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	return d.readUntil(ctx, deadline, p, off, func(error) bool { return true })
}

// readUntil tries again where that may help, for the last time just before giveUp.
func (d *device) readUntil(ctx context.Context, giveUp time.Time, p []byte, off int64, again func(error) bool) (int, error) {
	for backoff := minPause; ; backoff = min(2*backoff, maxPause) {
		n, err := d.read(ctx, p, off)
		if d.reading.observer != nil && reason.Of(err) == reason.FormatCorrupt {
			d.reading.observer.Corrupt()
		}
		left := time.Until(giveUp) - minPause
		if n == len(p) || errors.Is(err, io.EOF) || !again(err) || left <= 0 {
			return n, err
		}
		if pause.For(ctx, min(backoff/2+rand.N(backoff/2+1), left)) != nil {
			return n, err
		}
	}
}

// recovered forgets the ranges of which everything has been read since. That a
// part can be read says nothing: it may have been cached.
func (d *device) recovered(off int64, n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i, g := range d.given {
		if off <= g.off && g.end <= off+int64(n) {
			d.given[i] = givenUp{}
		}
	}
}

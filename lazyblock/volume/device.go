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
	lazyblock.Device

	reading     *reading
	giveUpAfter time.Duration
}

// reading is what the devices of one volume share.
type reading struct {
	log *zap.Logger

	mu       sync.Mutex
	deadline time.Time // of attaching; zero: none, or it is over
	failure  error     // of the first read that failed while attaching
	told     time.Time // when a failure was last logged
	untold   int       // failures since
}

// serve puts the devices of v behind one reading.
func serve(ctx context.Context, v *lazyblock.Volume, giveUpAfter time.Duration, log *zap.Logger) *reading {
	r := &reading{log: log}
	r.deadline, _ = ctx.Deadline()
	v.Primary = &device{v.Primary, r, giveUpAfter}
	extra := make([]lazyblock.Device, len(v.Extra))
	for i, d := range v.Extra {
		extra[i] = &device{d, r, giveUpAfter}
	}
	v.Extra = extra
	return r
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
	deadline := d.reading.hurry()
	if deadline.IsZero() {
		n, err := d.readPatiently(ctx, p, off)
		if n < len(p) && !errors.Is(err, io.EOF) && ctx.Err() == nil {
			d.reading.tell(err)
		}
		return n, err
	}
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	n, err := d.Device.ReadRange(ctx, p, off)
	d.reading.keep(err)
	return n, err
}

// readPatiently tries again for giveUpAfter where bytes are wrong. A registry or
// a proxy that corrupts them may be one of several, or be repaired.
func (d *device) readPatiently(ctx context.Context, p []byte, off int64) (int, error) {
	giveUp := time.Now().Add(d.giveUpAfter)
	for backoff := minPause; ; backoff = min(2*backoff, maxPause) {
		n, err := d.Device.ReadRange(ctx, p, off)
		if reason.Of(err) != reason.FormatCorrupt {
			return n, err
		}
		pause := backoff/2 + rand.N(backoff/2+1)
		if time.Now().Add(pause).After(giveUp) || wait(ctx, pause) != nil {
			return n, err
		}
	}
}

// wait sleeps unless ctx ends first.
func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

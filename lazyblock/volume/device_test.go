package volume

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/lazyblock"
)

// disk is a device of ones whose reads fail with err.
type disk struct {
	mu    sync.Mutex
	err   error
	reads int
	// patient: a read without a deadline fails only after that, as a blob's does.
	patient time.Duration
}

func (d *disk) ReadRange(ctx context.Context, p []byte, _ int64) (int, error) {
	d.mu.Lock()
	err := d.err
	d.reads++
	d.mu.Unlock()
	if err != nil {
		if _, hurried := ctx.Deadline(); !hurried {
			time.Sleep(d.patient) // of the bubble
		}
		return 0, err
	}
	copy(p, bytes.Repeat([]byte{1}, len(p)))
	return len(p), nil
}

func (d *disk) fail(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.err = err
}

func (*disk) Size() int64  { return 1 << 30 }
func (*disk) Close() error { return nil }
func (*disk) ID() string   { return "disk" }

const patience = 8 * time.Second

var (
	errCorrupt = reason.Errorf(reason.FormatCorrupt, "rotten")
	errSilent  = reason.Errorf(reason.RegistryUnreachable, "silent")
)

func serveDisk(d *disk) (lazyblock.Device, *reading, *observer.ObservedLogs) {
	core, logs := observer.New(zap.InfoLevel)
	v := lazyblock.Volume{Primary: d}
	_, r := serve(&v, patience, nil, zap.New(core))
	return v.Primary, r, logs
}

// expect reads 4 KiB at off and returns how long that took.
func expect(t *testing.T, d lazyblock.Device, off int64, want error) time.Duration {
	t.Helper()
	begin := time.Now()
	n, err := d.ReadRange(t.Context(), make([]byte, 4096), off)
	if !errors.Is(err, want) || want == nil && n != 4096 {
		t.Errorf("read at %d: %d bytes, %v; want %v", off, n, err, want)
	}
	return time.Since(begin)
}

func TestReadsWhileAttachingAreHurriedAndRemembered(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		d := &disk{patient: patience}
		served, r, logs := serveDisk(d)
		r.attaching(ctx)
		attachErr := reason.Errorf(reason.AttachFailed, "input/output error")
		if err := r.explain(attachErr); !errors.Is(err, attachErr) || reason.Of(err) != reason.AttachFailed {
			t.Errorf("no read failed, yet it is explained: %v", err)
		}
		d.fail(errCorrupt)
		if took := expect(t, served, 0, errCorrupt); took != 0 {
			t.Errorf("failed after %s", took)
		}
		d.fail(errSilent)
		expect(t, served, 0, errSilent)
		if err := r.explain(attachErr); reason.Of(err) != reason.FormatCorrupt || !errors.Is(err, attachErr) {
			t.Errorf("explained as %v", err)
		}
		if r.explain(nil) != nil {
			t.Error("a success was explained")
		}
		if logs.Len() > 0 {
			t.Errorf("told %v", logs.All())
		}
	})
}

func TestWrongBytesAreWaitedOut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := &disk{}
		served, _, _ := serveDisk(d)
		d.fail(errCorrupt)
		time.AfterFunc(5*time.Second, func() { d.fail(nil) })
		if took := expect(t, served, 0, nil); took < 5*time.Second || took > patience {
			t.Errorf("took %s", took)
		}
		d.fail(errCorrupt)
		if took := expect(t, served, 8192, errCorrupt); took < patience-time.Second || took > patience {
			t.Errorf("gave up after %s", took)
		}
		if d.reads > 25 {
			t.Errorf("%d reads", d.reads)
		}
	})
}

// TestKernelIsNotWaitedForTwice reads as the kernel does: ahead, then again.
func TestKernelIsNotWaitedForTwice(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := &disk{patient: patience}
		served, _, logs := serveDisk(d)
		d.fail(errSilent)
		if took := expect(t, served, 0, errSilent); took != patience {
			t.Errorf("gave up after %s", took)
		}
		if took := expect(t, served, 2048, errSilent); took > patience/4 {
			t.Errorf("a part of it again: gave up after %s", took)
		}
		if took := expect(t, served, 4096, errSilent); took > patience/4 {
			t.Errorf("a part of that again: gave up after %s", took)
		}
		if took := expect(t, served, 8192, errSilent); took > patience/4 {
			t.Errorf("what comes next: gave up after %s", took)
		}
		if took := expect(t, served, 1<<20, errSilent); took != patience {
			t.Errorf("elsewhere: gave up after %s", took)
		}
		if logs.Len() != 1 {
			t.Errorf("told %v", logs.All())
		}
		d.fail(nil)
		expect(t, served, 0, nil)
		d.fail(errSilent)
		time.Sleep(2 * patience) // of the bubble
		if took := expect(t, served, 0, errSilent); took != patience {
			t.Errorf("much later: gave up after %s", took)
		}
	})
}

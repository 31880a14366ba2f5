package volume

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/lazyblock"
)

// told is what an Observer was told of one read.
type told struct {
	Took   time.Duration
	Waited bool
	Code   reason.Code
}

type witness struct {
	reads   []told
	corrupt int
}

func (w *witness) Read(took time.Duration, waited bool, err error) {
	w.reads = append(w.reads, told{took, waited, reason.Of(err)})
}

func (w *witness) Corrupt() { w.corrupt++ }

// slow is a disk whose reads wait for a registry.
type slow struct{ *disk }

func (s slow) ReadRange(ctx context.Context, p []byte, off int64) (int, error) {
	lazyblock.Waits(ctx)
	time.Sleep(time.Second)
	return s.disk.ReadRange(ctx, p, off)
}

func TestObserverIsToldOfReads(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var w witness
		d := &disk{}
		v := lazyblock.Volume{Primary: d, Extra: []lazyblock.Device{slow{d}}}
		_, r := serve(&v, patience, &w, zap.NewNop())
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		r.attaching(ctx)
		expect(t, v.Primary, 0, nil) // what is read to attach is no container's
		r.attached()
		expect(t, v.Primary, 0, nil)
		expect(t, v.Extra[0], 0, nil)
		d.fail(errCorrupt)
		took := expect(t, v.Primary, 1<<20, errCorrupt)
		want := []told{{}, {Took: time.Second, Waited: true}, {Took: took, Code: reason.FormatCorrupt}}
		if diff := cmp.Diff(want, w.reads); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
		if w.corrupt < 2 {
			t.Errorf("told %d times of wrong bytes that were asked for again and again", w.corrupt)
		}
	})
}

func TestReadsOfAVolumeThatGoesAreNoErrors(t *testing.T) {
	t.Parallel()
	var w witness
	d := &disk{patient: patience}
	d.fail(errSilent)
	v := lazyblock.Volume{Primary: d}
	serve(&v, patience, &w, zap.NewNop())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := v.Primary.ReadRange(ctx, make([]byte, 4096), 0); err == nil {
		t.Error("read of a disk that fails succeeded")
	}
	if len(w.reads) > 0 {
		t.Errorf("told of %v", w.reads)
	}
}

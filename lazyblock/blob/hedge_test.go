package blob_test

import (
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/referee-cri/referee/internal/eventually"
	"github.com/referee-cri/referee/internal/registry"
	"github.com/referee-cri/referee/internal/regtest"
	"github.com/referee-cri/referee/lazyblock"
	"github.com/referee-cri/referee/lazyblock/blob"
)

// paced returns a blob whose registry has served enough ranges to know its pace.
func (s *stage) paced(t *testing.T) *blob.Blob {
	t.Helper()
	opts := quick()
	opts.Host = blob.NewHosts(0).Of(s.reg.Host())
	opts.Hedged = func() { s.hedged.Add(1) }
	b := blob.Open(s.repository(t, registry.Options{}), s.desc, opts)
	for i := range 200 {
		s.check(t, b, i*1000, 1000)
	}
	return b
}

// TestSlowRangeIsAskedForTwice lets one request get no answer at all.
func TestSlowRangeIsAskedForTwice(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]regtest.Fault{
		"no answer":       {Hang: true},
		"a trickled body": {BytesPerSecond: 5000},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStage(t)
			b := s.paced(t)
			var left atomic.Bool
			fault.Times = 1
			fault.Match = func(r *http.Request) bool {
				if !blobs()(r) {
					return false
				}
				go func() { <-r.Context().Done(); left.Store(true) }() // ends with the request
				return true
			}
			s.reg.Inject(fault)
			before, hedged := b.Stats(), s.hedged.Load()
			start := time.Now()
			s.check(t, b, 5000, 60_000)
			if took := time.Since(start); took > 250*time.Millisecond {
				t.Errorf("took %s: as long as a stall", took)
			}
			if n := b.Stats().Requests - before.Requests; n != 2 {
				t.Errorf("%d requests, want 2", n)
			}
			if n := s.hedged.Load() - hedged; n != 1 {
				t.Errorf("%d second requests are told of, want 1", n)
			}
			eventually.True(t, "the first request is given up", left.Load)
		})
	}
}

// TestSecondRequestsAreFew slows every request down: what is slow always is not
// mended by asking twice.
func TestSecondRequestsAreFew(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	b := s.paced(t)
	s.reg.Inject(regtest.Fault{Match: blobs(), Latency: 60 * time.Millisecond})
	before := b.Stats()
	const reads = 100
	for i := range reads {
		s.check(t, b, i*1000, 1000)
	}
	if extra := b.Stats().Requests - before.Requests - reads; extra == 0 || extra > 8 {
		t.Errorf("%d requests more than %d reads, want 1 to 8", extra, reads)
	}
}

// TestBackgroundIsNotAskedForTwice: nobody waits for it.
func TestBackgroundIsNotAskedForTwice(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	b := s.paced(t)
	s.reg.Inject(regtest.Fault{Match: blobs(), Latency: 100 * time.Millisecond, Times: 1})
	before := b.Stats()
	ctx := lazyblock.WithPriority(t.Context(), lazyblock.Background)
	if _, err := b.ReadRange(ctx, make([]byte, 1000), 0); err != nil {
		t.Fatal(err)
	}
	if n := b.Stats().Requests - before.Requests; n != 1 {
		t.Errorf("%d requests, want 1", n)
	}
}

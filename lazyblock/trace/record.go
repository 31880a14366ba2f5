package trace

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// unit is what a read is rounded out to: reads lie closer together than requests
// are worth telling apart.
const unit = 64 << 10

// least is what a start reads at least, in bytes: what comes before, such as a
// look at the volume's root, does not count as a start that went quiet.
const least = 256 << 10

// Watch passes on which parts of a blob are read. The zero value tells nobody.
// It is safe for concurrent use.
type Watch struct {
	observer atomic.Pointer[func(off, n int64)]
}

// Observe has f told of every read from now on; nil ends that.
func (w *Watch) Observe(f func(off, n int64)) {
	if f == nil {
		w.observer.Store(nil)
		return
	}
	w.observer.Store(&f)
}

// Saw tells of a read of n bytes at off.
func (w *Watch) Saw(off, n int64) {
	if f := w.observer.Load(); f != nil {
		(*f)(off, n)
	}
}

// recording collects what is read of one volume for the first time.
type recording struct {
	layers  []ocispec.Descriptor
	seen    [][]atomic.Uint64 // a bit a unit; set under mu
	most    int64             // bytes, of what is taken
	began   time.Time
	touched chan struct{} // capacity 1: something was added
	full    chan struct{} // closed when no more is taken

	mu     sync.Mutex
	ranges []Range
	bytes  int64
	isFull bool
}

// newRecording begins a recording of what known does not have, to most bytes with
// that.
func newRecording(layers []ocispec.Descriptor, known []Range, most int64) *recording {
	r := &recording{
		layers:  layers,
		seen:    make([][]atomic.Uint64, len(layers)),
		most:    most,
		began:   time.Now(),
		touched: make(chan struct{}, 1),
		full:    make(chan struct{}),
	}
	for i, layer := range layers {
		r.seen[i] = make([]atomic.Uint64, (max(layer.Size, 0)/unit)/64+1)
	}
	for _, k := range known {
		if k.Layer < len(layers) {
			for u := k.Offset / unit; u <= (k.Offset+k.Length-1)/unit; u++ {
				r.mark(k.Layer, u)
			}
			r.most -= k.Length
		}
	}
	return r
}

// touch notes a read of n bytes at off of a layer.
func (r *recording) touch(layer int, off, n int64) {
	end := min(off+n, r.layers[layer].Size)
	if off < 0 || off >= end {
		return
	}
	first, last := off/unit, (end-1)/unit
	for u := first; u <= last; u++ {
		if !r.has(layer, u) {
			r.add(layer, u, last)
			return
		}
	}
}

func (r *recording) add(layer int, first, last int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for u := first; u <= last && !r.isFull; u++ {
		if !r.has(layer, u) {
			r.mark(layer, u)
			r.extend(layer, u*unit)
		}
	}
	select {
	case r.touched <- struct{}{}:
	default:
	}
}

// extend adds the unit at off. The caller holds r.mu.
func (r *recording) extend(layer int, off int64) {
	n, at := min(unit, r.layers[layer].Size-off), r.at()
	r.bytes += n
	if last := len(r.ranges) - 1; last >= 0 && r.ranges[last].follows(layer, off, at) {
		r.ranges[last].Length += n
	} else {
		r.ranges = append(r.ranges, Range{Layer: layer, Offset: off, Length: n, At: at})
	}
	if r.bytes >= r.most || len(r.ranges) >= maxRanges {
		r.isFull = true
		close(r.full)
	}
}

// at is how long the recording has lasted, in seconds.
func (r *recording) at() float64 { return time.Since(r.began).Round(time.Millisecond).Seconds() }

// together is within what time neighbours count as one read, in seconds.
const together = 0.1

// follows reports whether a read of off, at that time, goes on with r.
func (r Range) follows(layer int, off int64, at float64) bool {
	return r.Layer == layer && r.Offset+r.Length == off && at-r.At < together
}

func (r *recording) has(layer int, u int64) bool {
	return r.seen[layer][u/64].Load()&(1<<(u%64)) != 0
}

// mark sets a unit's bit. The caller holds r.mu, or nobody else knows r yet.
func (r *recording) mark(layer int, u int64) {
	word := &r.seen[layer][u/64]
	word.Store(word.Load() | 1<<(u%64))
}

// wait returns when the start has gone quiet, has taken longest, or ctx ends.
func (r *recording) wait(ctx context.Context, quiet, longest time.Duration) {
	silence := time.NewTimer(quiet)
	defer silence.Stop()
	var limit <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.full:
			return
		case <-limit:
			return
		case <-r.touched:
			if limit == nil && r.begun() {
				limit = time.After(longest)
			}
			silence.Reset(quiet)
		case <-silence.C:
			if r.begun() {
				return
			}
		}
	}
}

// begun reports whether enough was read for a start.
func (r *recording) begun() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.bytes >= least
}

// taken returns what was recorded.
func (r *recording) taken() []Range {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.ranges)
}

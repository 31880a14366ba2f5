package overlaybd

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/referee-cri/referee/lazyblock"
)

const (
	// maxRun is the most stored bytes that one run fetches, but for a piece
	// that needs more by itself.
	maxRun = 2 << 20
	// parallelRuns is how many fetches one read has under way.
	parallelRuns = 8
)

// piece is a part of a read: dst is to hold the bytes from off of a layer's
// LSMT file.
type piece struct {
	layer *layer
	off   int64
	dst   []byte
}

func (p *piece) end() int64 { return p.off + int64(len(p.dst)) }

// run is what one ReadRange of a blob can serve: pieces of one layer, in
// order, whose blocks are stored without a gap.
type run struct {
	pieces      []piece
	first, last int // blocks; unused without ZFile
}

// scatter fills every piece, past any cache. The order of pieces changes.
func scatter(ctx context.Context, pieces []piece) error {
	r := reading{pieces: pieces}
	return r.scatter(ctx, nil)
}

// reading is what a read needs to remember; it can be used again.
type reading struct {
	pieces []piece
	runs   []run
}

// scatter fills every piece. Runs are fetched side by side, because each may
// cost a round trip.
func (r *reading) scatter(ctx context.Context, cache *blockCache) error {
	r.runs = plan(r.runs[:0], r.pieces)
	if len(r.runs) == 1 {
		return r.runs[0].read(ctx, cache)
	}
	return readAll(ctx, r.runs, cache)
}

func readAll(ctx context.Context, runs []run, cache *blockCache) error {
	g, ctx := errgroup.WithContext(ctx) // waited for below
	g.SetLimit(parallelRuns)
	for i := range runs {
		g.Go(func() error { return runs[i].read(ctx, cache) })
	}
	return g.Wait()
}

// maxReadings keeps the memory of rare scattered reads from staying.
const maxReadings = 256

// readings recycles what reads remember.
type readings struct{ pool sync.Pool }

func (r *readings) borrow() *reading {
	if one, ok := r.pool.Get().(*reading); ok {
		return one
	}
	return new(reading)
}

func (r *readings) giveBack(one *reading) {
	if max(cap(one.pieces), cap(one.runs)) > maxReadings {
		return
	}
	clear(one.pieces) // they hold the reader's memory
	clear(one.runs)
	one.pieces, one.runs = one.pieces[:0], one.runs[:0]
	r.pool.Put(one)
}

// plan sorts pieces by place and appends them to runs, grouped.
func plan(runs []run, pieces []piece) []run {
	slices.SortFunc(pieces, func(a, b piece) int {
		return cmp.Or(cmp.Compare(a.layer.number, b.layer.number), compareRemote(a.layer, b.layer), cmp.Compare(a.off, b.off))
	})
	stored := int64(0) // of the last run
	for i := range pieces {
		p := &pieces[i]
		z := p.layer.z
		if z == nil {
			runs = append(runs, run{pieces: pieces[i : i+1]})
			continue
		}
		first, last := int(p.off/z.blockSize), int((p.end()-1)/z.blockSize)
		length := z.index.span(first, last).len
		if n := len(runs); n > 0 && stored+length <= maxRun {
			r := &runs[n-1]
			if r.pieces[0].layer == p.layer && first <= r.last+1 {
				r.pieces = r.pieces[:len(r.pieces)+1]
				r.last = max(r.last, last)
				stored += length
				continue
			}
		}
		runs = append(runs, run{pieces[i : i+1], first, last})
		stored = length
	}
	return runs
}

func (r *run) read(ctx context.Context, cache *blockCache) error {
	l := r.pieces[0].layer
	var err error
	switch {
	case l.z == nil:
		err = lazyblock.ReadFull(ctx, l.blob, r.pieces[0].dst, l.payload.off+r.pieces[0].off)
	case r.fromCache(cache):
	default:
		err = r.readBlocks(ctx, l, cache)
	}
	if err != nil {
		return fmt.Errorf("read layer %d: %w", l.number, err)
	}
	return nil
}

// fromCache serves a run of one block from the cache. Longer runs have to ask
// the blob anyway.
func (r *run) fromCache(cache *blockCache) bool {
	if cache == nil || r.first != r.last {
		return false
	}
	l := r.pieces[0].layer
	start := int64(r.first) * l.z.blockSize
	return cache.get(l.number, r.first, func(block []byte) {
		for _, p := range r.pieces {
			copy(p.dst, block[p.off-start:])
		}
	})
}

// readBlocks fetches the stored blocks of the run and expands each, straight
// into its place where one piece wants all of it.
func (r *run) readBlocks(ctx context.Context, l *layer, cache *blockCache) error {
	z := l.z
	at := z.span(r.first, r.last)
	buf := l.buffers.borrow(int(at.len))
	defer l.buffers.giveBack(buf)
	stored := *buf
	if err := lazyblock.ReadFull(ctx, l.blob, stored, at.off); err != nil {
		return err
	}
	scratch := l.buffers.borrow(int(z.blockSize))
	defer l.buffers.giveBack(scratch)

	pending := r.pieces
	for b := r.first; b <= r.last; b++ {
		start, n := int64(b)*z.blockSize, z.length(b)
		here := stored[:z.index.stored(b)]
		stored = stored[len(here):]
		for len(pending) > 0 && pending[0].end() <= start {
			pending = pending[1:]
		}
		if dst := soleTarget(pending, start, n); dst != nil {
			if err := z.expandOrRefetch(ctx, l.blob, b, dst, here); err != nil {
				return err
			}
			continue
		}
		block := (*scratch)[:n]
		if err := z.expandOrRefetch(ctx, l.blob, b, block, here); err != nil {
			return err
		}
		for i := 0; i < len(pending) && pending[i].off < start+n; i++ {
			copyBlock(&pending[i], block, start)
		}
		if cache != nil {
			cache.put(l.number, b, block)
		}
	}
	return nil
}

// soleTarget returns the part of a piece that wants the whole block at start,
// where no other piece wants any of it.
func soleTarget(pending []piece, start, n int64) []byte {
	if len(pending) == 0 || pending[0].off > start || pending[0].end() < start+n ||
		len(pending) > 1 && pending[1].off < start+n {
		return nil
	}
	return pending[0].dst[start-pending[0].off:][:n]
}

// copyBlock copies what p wants of the block that starts at start.
func copyBlock(p *piece, block []byte, start int64) {
	if p.off >= start {
		copy(p.dst, block[p.off-start:])
		return
	}
	if skip := start - p.off; skip < int64(len(p.dst)) {
		copy(p.dst[skip:], block)
	}
}

// bufferPool recycles the memory of reads.
type bufferPool struct{ pool sync.Pool }

// maxPooled keeps rare huge reads from staying in memory.
const maxPooled = 4 << 20

func (b *bufferPool) borrow(n int) *[]byte {
	buf, ok := b.pool.Get().(*[]byte)
	if !ok {
		buf = new([]byte)
	}
	if cap(*buf) < n {
		*buf = make([]byte, n)
	}
	*buf = (*buf)[:n]
	return buf
}

func (b *bufferPool) giveBack(buf *[]byte) {
	if cap(*buf) <= maxPooled {
		b.pool.Put(buf)
	}
}

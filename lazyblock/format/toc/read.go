package toc

import (
	"context"
	"fmt"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/referee-cri/referee/lazyblock"
)

const (
	// maxGap is how many bytes between two files one read of a content skips over:
	// a header or two of a tar, or small files that an upper layer hides. Reading
	// them costs less than a round trip does.
	maxGap = 64 << 10
	// maxRun is the most that files are read together, gaps included.
	maxRun = 4 << 20
	// parallelRuns is how many reads of contents one read has under way.
	parallelRuns = 8
)

// piece is a part of a read: dst is to hold the bytes from at of a layer's content.
type piece struct {
	layer uint32
	at    int64
	dst   []byte
}

func (p *piece) end() int64 { return p.at + int64(len(p.dst)) }

// scatter fills every piece. Small files that are neighbours in a layer are read
// together, the rest side by side, because each may cost a round trip.
func (d *disk) scatter(ctx context.Context, pieces []piece) error {
	first := runLength(pieces)
	if first == len(pieces) {
		return d.readRun(ctx, pieces)
	}
	group, ctx := errgroup.WithContext(ctx) // waited for below
	group.SetLimit(parallelRuns)
	for len(pieces) > 0 {
		n := runLength(pieces)
		run := pieces[:n]
		pieces = pieces[n:]
		group.Go(func() error { return d.readRun(ctx, run) })
	}
	return group.Wait()
}

// runLength is how many of the first pieces are worth one read.
func runLength(pieces []piece) int {
	n := 1
	for ; n < len(pieces); n++ {
		last, next := &pieces[n-1], &pieces[n]
		gap := next.at - last.end()
		if next.layer != last.layer || gap < 0 || gap > maxGap || next.end()-pieces[0].at > maxRun {
			break
		}
	}
	return n
}

// readRun reads pieces of one layer with one read of its content.
func (d *disk) readRun(ctx context.Context, run []piece) error {
	first, last := &run[0], &run[len(run)-1]
	dst := first.dst
	if len(run) > 1 {
		buf := d.buffers.borrow(int(last.end() - first.at))
		defer d.buffers.giveBack(buf)
		dst = *buf
	}
	if err := lazyblock.ReadFull(ctx, d.contents[first.layer], dst, first.at); err != nil {
		return fmt.Errorf("layer %d: %w", first.layer, err)
	}
	if len(run) == 1 {
		return nil
	}
	for i := range run {
		copy(run[i].dst, dst[run[i].at-first.at:])
	}
	return nil
}

// bufferPool recycles the memory of merged reads.
type bufferPool struct{ pool sync.Pool }

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

func (b *bufferPool) giveBack(buf *[]byte) { b.pool.Put(buf) }

package span

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/lazyblock"
)

const (
	// maxGap is how many bytes between two stored spans one fetch takes along.
	maxGap = 32 << 10
	// maxRun is the most stored bytes that spans are fetched together, gaps included.
	maxRun = 4 << 20
	// parallelRuns is how many fetches one read has under way.
	parallelRuns = 8
	// serialDecode is how many decoded bytes are not worth a second goroutine.
	serialDecode = 128 << 10
)

// read fills p, the bytes from at, from spans i to j and zeros.
func (r *Reader) read(ctx context.Context, i, j int, p []byte, at int64) error {
	r.clearGaps(i, j, p, at)
	var raw []rawPiece
	var taken, mine []*decoded
	wanted := lazyblock.PriorityOf(ctx) == lazyblock.Demand
	for ; i < j; i++ {
		if r.raw(i) {
			raw = r.appendRaw(raw, i, p, at)
			continue
		}
		if dst, skip := r.part(i, p, at); r.readBack(i, dst, skip) {
			continue
		}
		d, isMine := r.memory.take(key{r, i}, wanted)
		taken = append(taken, d)
		if isMine {
			mine = append(mine, d)
		}
	}
	// What is ours comes first, so that no two readers wait for each other.
	err := r.fetch(ctx, mine, raw)
	for _, d := range taken {
		if err != nil {
			r.memory.release(d, false)
			continue
		}
		err = r.copyOut(ctx, d, p, at)
	}
	return err
}

// clearGaps puts zeros where no span is.
func (r *Reader) clearGaps(i, j int, p []byte, at int64) {
	pos, end := at, at+int64(len(p))
	for ; i < j; i++ {
		if s := &r.spans[i]; pos < s.At {
			clear(p[pos-at : s.At-at])
		}
		pos = r.spans[i].end()
	}
	if pos < end {
		clear(p[pos-at:])
	}
}

// copyOut waits for d, copies what p wants of it and releases it.
func (r *Reader) copyOut(ctx context.Context, d *decoded, p []byte, at int64) error {
	for {
		err := d.wait(ctx)
		if err == nil {
			break
		}
		r.memory.release(d, false)
		// Whoever was at it gave up for a reason of their own: it is our turn.
		theirs := errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
		if !theirs || ctx.Err() != nil {
			return err
		}
		var mine bool
		if d, mine = r.memory.take(d.key, false); mine {
			if err := r.fetch(ctx, []*decoded{d}, nil); err != nil {
				r.memory.release(d, false)
				return err
			}
		}
	}
	dst, skip := r.part(d.key.span, p, at)
	copy(dst, (*d.data)[skip:])
	r.memory.release(d, len(dst) < len(*d.data))
	return nil
}

// rawPiece is a part of a read that is stored as it is.
type rawPiece struct {
	off int64
	dst []byte
}

// appendRaw appends what p wants of span i, joined with the piece before where the
// two are neighbours at both ends.
func (r *Reader) appendRaw(raw []rawPiece, i int, p []byte, at int64) []rawPiece {
	dst, skip := r.part(i, p, at)
	off := r.spans[i].Off + skip
	if n := len(raw); n > 0 {
		last := &raw[n-1]
		adjacent := cap(last.dst)-cap(dst) == len(last.dst)
		if adjacent && last.off+int64(len(last.dst)) == off {
			last.dst = last.dst[:len(last.dst)+len(dst)]
			return raw
		}
	}
	return append(raw, rawPiece{off, dst})
}

// fetch decodes mine and reads raw. It finishes all of mine, whatever happens.
func (r *Reader) fetch(ctx context.Context, mine []*decoded, raw []rawPiece) error {
	slices.SortFunc(mine, func(a, b *decoded) int {
		return cmp.Compare(r.spans[a.key.span].Off, r.spans[b.key.span].Off)
	})
	if len(raw) == 0 && len(mine) > 0 && r.runLength(mine) == len(mine) {
		return r.fetchRun(ctx, mine)
	}
	var group errgroup.Group // waited for below; what one cannot have is no reason to leave the others
	group.SetLimit(parallelRuns)
	for _, piece := range raw {
		group.Go(func() error { return lazyblock.ReadFull(ctx, r.blob, piece.dst, piece.off) })
	}
	for len(mine) > 0 {
		n := r.runLength(mine)
		run := mine[:n]
		mine = mine[n:]
		group.Go(func() error { return r.fetchRun(ctx, run) })
	}
	return group.Wait()
}

// runLength is how many of the first spans are worth one fetch.
func (r *Reader) runLength(mine []*decoded) int {
	first := &r.spans[mine[0].key.span]
	end := first.storedEnd()
	for n, d := range mine[1:] {
		s := &r.spans[d.key.span]
		if s.Off > end+maxGap || s.storedEnd()-first.Off > maxRun {
			return n + 1
		}
		end = max(end, s.storedEnd())
	}
	return len(mine)
}

// fetchRun fetches spans that are neighbours in the blob and decodes each.
func (r *Reader) fetchRun(ctx context.Context, run []*decoded) error {
	start, end := r.spans[run[0].key.span].Off, int64(0)
	total := int64(0)
	for _, d := range run {
		s := &r.spans[d.key.span]
		end, total = max(end, s.storedEnd()), total+s.Size
	}
	buf := r.memory.buffers.borrow(end - start)
	defer r.memory.buffers.giveBack(buf)
	if err := lazyblock.ReadFull(ctx, r.blob, *buf, start); err != nil {
		for _, d := range run {
			r.memory.finish(d, nil, err)
		}
		return err
	}
	var group errgroup.Group // waited for below
	if group.SetLimit(runtime.GOMAXPROCS(0)); total <= serialDecode {
		group.SetLimit(1)
	}
	for _, d := range run {
		s := &r.spans[d.key.span]
		src := (*buf)[s.Off-start:][:s.Stored]
		if len(run) == 1 {
			return r.finish(ctx, d, src)
		}
		group.Go(func() error { return r.finish(ctx, d, src) })
	}
	return group.Wait()
}

// finish decodes d from src and tells everyone who waits for it.
func (r *Reader) finish(ctx context.Context, d *decoded, src []byte) error {
	data := r.memory.buffers.borrow(r.spans[d.key.span].Size)
	err := r.decodeOrRefetch(ctx, d.key.span, *data, src)
	if err != nil {
		r.memory.buffers.giveBack(data)
		data = nil
	}
	r.memory.finish(d, data, err)
	return err
}

// decodeOrRefetch decodes span i with one more attempt on fresh bytes: what is
// cached on the node may have rotted.
func (r *Reader) decodeOrRefetch(ctx context.Context, i int, dst, src []byte) error {
	err := r.decode(i, dst, src)
	if err == nil {
		return nil
	}
	s := &r.spans[i]
	if cache, ok := r.blob.(lazyblock.Invalidator); ok {
		_ = cache.Invalidate(ctx, s.Off, s.Stored) // what counts is that they are read anew now
		fresh := r.memory.buffers.borrow(s.Stored)
		defer r.memory.buffers.giveBack(fresh)
		if err := lazyblock.ReadFull(ctx, r.blob, *fresh, s.Off); err != nil {
			return fmt.Errorf("fetch span %d again: %w", i, err)
		}
		if r.reread != nil {
			if err := r.reread(ctx, i); err != nil {
				return fmt.Errorf("span %d: %w", i, err)
			}
		}
		err = r.decode(i, dst, *fresh)
	}
	if err != nil {
		return reason.Errorf(reason.FormatCorrupt, "decode span %d, %d bytes at %d: %w", i, s.Stored, s.Off, err)
	}
	return nil
}

package cache

import (
	"context"
	"errors"
	"io"
	"os"
)

// piece is a part of a read: on disk, or brought by a fetch.
type piece struct {
	off, end int64
	fetch    *fetch // nil: on disk
}

// manner is how blocks are fetched.
type manner int

const (
	generously manner = iota // for a reader: with neighbours, and what it may read next
	exactly                  // for somebody who waits and knows what will be read: no more than that
	ahead                    // with neighbours; nobody waits
)

// window is how much of one read is planned at a time; it bounds what a single
// long read can have under way.
const window = 16 << 20

// readMissing fills p, of which something is not here.
func (f *file) readMissing(ctx context.Context, p []byte, off int64) (n int, err error) {
	for n < len(p) {
		end := min(off+int64(len(p)), off+int64(n)+window)
		m, err := f.readWindow(ctx, p[n:end-off], off+int64(n))
		n += m
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// readWindow fills p, or as much as it can before it has to plan anew.
func (f *file) readWindow(ctx context.Context, p []byte, off int64) (n int, err error) {
	err = f.cover(ctx, off, off+int64(len(p)), generously, func(pc piece) error {
		from, to := max(pc.off, off), min(pc.end, off+int64(len(p)))
		if err := f.copyPiece(ctx, p[from-off:to-off], from, pc); err != nil {
			return err
		}
		n = int(to - off)
		return nil
	})
	return n, err
}

// prefetch makes [off, off+n) present, one request after the other.
func (f *file) prefetch(ctx context.Context, off, n int64) error {
	for end := off + n; off < end; {
		next := min(end, off+f.store.opts.MaxRequest)
		err := f.cover(ctx, off, next, exactly, func(pc piece) error {
			off = min(pc.end, next)
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// cover plans [off, end), waits for each fetch in turn and hands the pieces to
// use, in order. Where a fetch failed through no fault of this reader it stops
// without an error: what is left has to be planned anew.
func (f *file) cover(ctx context.Context, off, end int64, as manner, use func(piece) error) error {
	pieces, err := f.plan(ctx, off, end, as)
	if err != nil {
		return err
	}
	defer func() {
		for _, pc := range pieces {
			if pc.fetch != nil {
				f.leave(pc.fetch)
			}
		}
	}()
	for _, pc := range pieces {
		if pc.fetch != nil && (as != generously || !f.awaitEarly(ctx, pc.fetch, min(pc.end, end)-pc.fetch.off)) {
			if again, err := f.await(ctx, pc.fetch); err != nil {
				if again {
					return nil
				}
				return err
			}
		}
		if err := use(pc); err != nil {
			return err
		}
	}
	return nil
}

// copyPiece fills p, a part of pc that begins at off. A file that cannot be read
// any more is passed by.
func (f *file) copyPiece(ctx context.Context, p []byte, off int64, pc piece) error {
	if fe := pc.fetch; fe != nil {
		if f.copyEarly(p, off, fe) {
			return nil
		}
		if again, err := f.await(ctx, fe); err != nil { // what it brought early is gone, and no hole may pass for it
			if again {
				return f.fetchOrigin(ctx, p, off)
			}
			return err
		}
		if fe.data != nil {
			copy(p, fe.data[off-fe.off:])
			return nil
		}
	}
	n, err := f.sparse.data.ReadAt(p, off)
	if n == len(p) && (err == nil || errors.Is(err, io.EOF)) {
		return nil
	}
	if f.closed() {
		return os.ErrClosed
	}
	return f.fetchOrigin(ctx, p, off)
}

// plan splits [off, end) into pieces, starts the fetches that are needed and
// joins those under way. Every fetch in the result must be left.
func (f *file) plan(ctx context.Context, off, end int64, as manner) ([]piece, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.done {
		return nil, os.ErrClosed
	}
	var pieces []piece
	missed, longest := false, f.longestRequest(ctx, end-off, as)
	for pos := f.alignDown(off, f.sparse.blockSize); pos < end; {
		pc := piece{off: pos}
		if f.present(pos) {
			for pc.end = pos; pc.end < end && f.present(pc.end); {
				pc.end += f.sparse.blockSize
			}
		} else {
			missed = true
			fe := f.fetchAt(pos)
			if fe == nil {
				fe = f.startAt(ctx, pos, end, longest, as)
			}
			pc.fetch, pc.end = fe.join(ctx), fe.end
		}
		pieces = append(pieces, pc)
		pos = pc.end
	}
	if missed && as != exactly {
		f.readAhead(ctx, off, end)
	}
	return pieces, nil
}

// before is how much is fetched in front of what was asked for: it comes first.
const before = 16 << 10

// startAt starts a fetch that covers the missing block at pos and, of the hole
// around it, a little before that and what is wanted up to end, aligned to the fetch
// size; for somebody in a hurry no more than is wanted. It is at most longest.
func (f *file) startAt(ctx context.Context, pos, end, longest int64, as manner) *fetch {
	fetchSize, blockSize := f.store.opts.FetchSize, f.sparse.blockSize
	if as == exactly || hurried(ctx) {
		fetchSize = blockSize
	}
	start := pos
	for lowest := max(f.alignDown(pos, fetchSize), pos-before); start > lowest && f.missing(start-blockSize); {
		start -= blockSize
	}
	limit := min(f.alignUp(end, fetchSize), f.entry.size, start+longest)
	stop := pos + blockSize
	for stop < limit && f.missing(stop) {
		stop += blockSize
	}
	return f.start(ctx, start, min(stop, f.entry.size), as == ahead)
}

// Reads of which every byte is waited for are split into a few requests side by
// side. A TCP connection brings ten segments in its first round trip (RFC 6928), and
// in the first after a pause; from there it doubles: 64 KiB take three round trips,
// and one over five connections.
const (
	sideBySide     = 8
	hurriedRequest = 12 << 10  // at least, of reads in a hurry, with its header
	longRead       = 512 << 10 // at least: whoever wants so much cannot use a part of it, as of a span to decode
	longRequest    = 128 << 10 // at least, of long reads
)

// longestRequest is how much one request of a read of n bytes fetches at most.
func (f *file) longestRequest(ctx context.Context, n int64, as manner) int64 {
	least := f.store.opts.MaxRequest
	switch {
	case hurried(ctx):
		least = hurriedRequest
	case n >= longRead && as == generously:
		least = longRequest
	}
	part := f.alignUp(max(n/sideBySide, least), f.sparse.blockSize)
	return min(part, f.store.opts.MaxRequest)
}

// hurried reports whether a read has a deadline, as reads have that prepare a
// pull: every byte more than they ask for makes them wait longer.
func hurried(ctx context.Context) bool { return !deadlineOf(ctx).IsZero() }

func (f *file) alignDown(off, unit int64) int64 { return off &^ (unit - 1) }

func (f *file) alignUp(off, unit int64) int64 { return f.alignDown(off+unit-1, unit) }

func (f *file) present(off int64) bool { return f.sparse.present.has(off / f.sparse.blockSize) }

// missing reports whether nobody has or fetches the block at off.
func (f *file) missing(off int64) bool { return !f.present(off) && f.fetchAt(off) == nil }

func (f *file) fetchAt(off int64) *fetch {
	for _, fe := range f.fetches {
		if fe.off <= off && off < fe.end {
			return fe
		}
	}
	return nil
}

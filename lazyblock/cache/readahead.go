package cache

import "context"

// maxStreams is how many forward readers of one blob are told apart.
const maxStreams = 8

// stream is a reader that went forward.
type stream struct {
	last   int64 // end of its last read
	ahead  int64 // end of what was fetched for it
	window int64
	turn   uint64
}

// streams remembers the last few.
type streams struct {
	known [maxStreams]stream
	turn  uint64
}

// follow returns the stream that a read of [off, end) goes on with, or begins a
// new one in the place of the oldest, which is told by a window of 0.
func (s *streams) follow(off, slack int64) *stream {
	s.turn++
	oldest := &s.known[0]
	for i := range s.known {
		st := &s.known[i]
		if st.window > 0 && off >= st.last-slack && off <= st.ahead {
			st.turn = s.turn
			return st
		}
		if st.turn < oldest.turn {
			oldest = st
		}
	}
	*oldest = stream{turn: s.turn}
	return oldest
}

// readAhead is told of a read that had to wait. Where it goes on with an earlier
// one and has come near the end of what was fetched for that, more is fetched:
// twice as much each time. Where it goes on with none and is not long, a guess is
// made. The caller holds f.mu.
func (f *file) readAhead(ctx context.Context, off, end int64) {
	fetchSize := f.store.opts.FetchSize
	if f.store.opts.MaxReadAhead < fetchSize {
		return
	}
	st := f.streams.follow(off, fetchSize)
	reached := f.alignUp(end, fetchSize)
	if st.window == 0 {
		*st = stream{last: end, ahead: reached, window: fetchSize, turn: st.turn}
		if end-off < longRead { // or it would only share the link
			f.guess(ctx, reached)
		}
		return
	}
	st.last = max(st.last, end)
	if end < st.ahead-st.window/2 {
		return
	}
	st.window = min(2*st.window, f.store.opts.MaxReadAhead)
	f.fetchAhead(ctx, max(st.ahead, reached), reached+st.window)
	st.ahead = max(st.ahead, reached+st.window)
}

// fetchAhead starts fetches of what is missing of [from, to) and reports whether
// anything was. The caller holds f.mu.
func (f *file) fetchAhead(ctx context.Context, from, to int64) (started bool) {
	to = min(to, f.entry.size)
	for pos := from; pos < to; {
		switch fe := f.fetchAt(pos); {
		case f.present(pos):
			pos += f.sparse.blockSize
		case fe != nil:
			pos = fe.end
		default:
			pos, started = f.startAt(ctx, pos, to, f.store.opts.MaxRequest, ahead).end, true
		}
	}
	return started
}

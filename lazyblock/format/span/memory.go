package span

import (
	"container/list"
	"context"
	"sync"
)

// DefaultMemory is what a Memory of no declared size keeps, in bytes: some spans
// of the usual 4 MiB for each of the streams that a start reads at a time.
const DefaultMemory = 32 << 20

// Memory keeps decoded spans, the least recently used of them goes first: to a
// Scratch of its reader, where there is one. It also knows which are being decoded,
// so that nobody decodes one twice at a time. It is safe for concurrent use by any
// number of readers.
type Memory struct {
	limit  int64
	create func() (Scratch, error) // nil: no scratch

	mu    sync.Mutex
	spans map[key]*decoded
	order *list.List // of *decoded that are kept, the most recently used first
	kept  int64      // bytes that they take

	buffers buffers
}

type key struct {
	reader *Reader
	span   int
}

// decoded is a span in memory, or on its way there.
type decoded struct {
	key   key
	ready chan struct{} // closed when data or err is there
	data  *[]byte
	err   error

	// Under Memory.mu.
	users   int           // readers that hold it; the memory itself is none
	wanted  bool          // by a reader that somebody waits for
	element *list.Element // in Memory.order, nil: not kept
	done    bool          // ready is closed
}

// NewMemory returns a Memory that keeps at most limit bytes beyond what is being
// read. create makes a Scratch for a reader; nil: what leaves the memory is decoded
// again when it is wanted.
func NewMemory(limit int64, create func() (Scratch, error)) *Memory {
	return &Memory{limit: limit, create: create, spans: make(map[key]*decoded), order: list.New()}
}

// take returns the span and whether the caller is the one who must decode it and
// call finish. wanted: somebody waits for it. Every taken span must be released.
func (m *Memory) take(k key, wanted bool) (d *decoded, mine bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if d = m.spans[k]; d != nil {
		d.users++
		d.wanted = d.wanted || wanted
		if d.element != nil {
			m.order.MoveToFront(d.element)
		}
		return d, false
	}
	d = &decoded{key: k, ready: make(chan struct{}), users: 1, wanted: wanted}
	m.spans[k] = d
	return d, true
}

// finish tells everyone who waits for d what became of it. A span that failed is
// forgotten: the next reader tries again.
func (m *Memory) finish(d *decoded, data *[]byte, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	d.data, d.err, d.done = data, err, true
	if err != nil {
		delete(m.spans, d.key)
	}
	close(d.ready)
}

// release gives d back. keep says that its bytes are likely to be wanted again soon.
func (m *Memory) release(d *decoded, keep bool) {
	for _, leaving := range m.giveBack(d, keep) {
		leaving.key.reader.writeDown(leaving)
		m.left(leaving)
	}
}

// left gives back what was written down, or could not be. Somebody may have begun to
// keep it meanwhile.
func (m *Memory) left(d *decoded) {
	m.mu.Lock()
	defer m.mu.Unlock()
	d.users--
	if d.element != nil && d.onDisk() {
		m.drop(d)
	}
	m.recycle(d)
}

// onDisk reports whether d is written down: then the memory need not keep it.
func (d *decoded) onDisk() bool { return d.key.reader.scratch.has(d.key.span) }

// giveBack takes a user off d and returns what leaves the memory with that and is
// worth writing down. The caller is a user of these.
func (m *Memory) giveBack(d *decoded, keep bool) (leaving []*decoded) {
	m.mu.Lock()
	defer m.mu.Unlock()
	d.users--
	if !d.done || d.err != nil {
		return nil
	}
	switch size := int64(cap(*d.data)); {
	case keep && d.element == nil && size <= m.limit && !d.onDisk() && !d.key.reader.closed.Load():
		d.element = m.order.PushFront(d)
		m.kept += size
		return m.shrink()
	case !keep && d.element != nil:
		m.drop(d)
	}
	return m.leave(nil, d)
}

// shrink drops kept spans until the limit holds, and returns those that are worth
// writing down. m.mu is held.
func (m *Memory) shrink() (leaving []*decoded) {
	for m.kept > m.limit {
		oldest, ok := m.order.Back().Value.(*decoded)
		if !ok {
			break
		}
		m.drop(oldest)
		leaving = m.leave(leaving, oldest)
	}
	return leaving
}

// drop stops keeping d. m.mu is held.
func (m *Memory) drop(d *decoded) {
	m.order.Remove(d.element)
	d.element = nil
	m.kept -= int64(cap(*d.data))
}

// leave forgets d, or appends it to leaving, with one more user, for it to be
// written down first; neither if somebody has it still. m.mu is held.
func (m *Memory) leave(leaving []*decoded, d *decoded) []*decoded {
	switch {
	case d.users > 0 || d.element != nil:
	case m.create != nil && d.wanted && d.key.reader.worthWriting(d):
		d.users++
		return append(leaving, d)
	default:
		m.recycle(d)
	}
	return leaving
}

// forget stops keeping the spans of a reader.
func (m *Memory) forget(r *Reader) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for element := m.order.Front(); element != nil; {
		next := element.Next()
		if d, ok := element.Value.(*decoded); ok && d.key.reader == r {
			m.drop(d)
			m.recycle(d)
		}
		element = next
	}
}

// recycle forgets d if nobody has it any more. m.mu is held.
func (m *Memory) recycle(d *decoded) {
	if d.users > 0 || d.element != nil {
		return
	}
	delete(m.spans, d.key)
	m.buffers.giveBack(d.data)
}

// wait waits until d is decoded.
func (d *decoded) wait(ctx context.Context) error {
	select {
	case <-d.ready:
		return d.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

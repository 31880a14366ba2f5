package span

import (
	"io"
	"sync"
	"sync/atomic"
)

// Scratch is a sparse file for decoded bytes, at their addresses, which one process
// writes and reads back. What cannot be read back any more gives an error, never
// other bytes.
type Scratch interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
}

// minScratch is the least span that is worth writing down: a smaller one is decoded
// about as fast as it is read back.
const minScratch = 16 << 10

// scratch is what a Reader has written down of its spans.
type scratch struct {
	mu   sync.Mutex
	file Scratch // nil: none yet, or done
	done bool    // none is made any more

	there []atomic.Uint32 // a bit for each span
}

func newScratch(spans int) *scratch { return &scratch{there: make([]atomic.Uint32, (spans+31)/32)} }

func (s *scratch) has(i int) bool { return s.there[i/32].Load()&(1<<(i%32)) != 0 }

// open returns the file, which create makes where there is none yet; nil if there
// is none.
func (s *scratch) open(create func() (Scratch, error)) Scratch {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file == nil && !s.done {
		file, err := create()
		if err != nil {
			return nil // the next time it may work
		}
		s.file = file
	}
	return s.file
}

func (s *scratch) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	file := s.file
	s.file, s.done = nil, true
	if file == nil {
		return nil
	}
	return file.Close()
}

// worthWriting tells whether d should be written down before it is forgotten.
func (r *Reader) worthWriting(d *decoded) bool {
	return len(*d.data) >= minScratch && !d.onDisk() && !r.closed.Load()
}

// writeDown keeps d on disk, where there is room.
func (r *Reader) writeDown(d *decoded) {
	i := d.key.span
	file := r.scratch.open(r.memory.create)
	if file == nil {
		return
	}
	if _, err := file.WriteAt(*d.data, r.spans[i].At); err == nil {
		r.scratch.there[i/32].Or(1 << (i % 32))
	}
}

// readBack fills dst with the bytes of span i from skip on, and reports whether
// they are on disk.
func (r *Reader) readBack(i int, dst []byte, skip int64) bool {
	if !r.scratch.has(i) {
		return false
	}
	file := r.scratch.open(r.memory.create)
	if file == nil {
		return false
	}
	n, _ := file.ReadAt(dst, r.spans[i].At+skip)
	if n < len(dst) {
		r.scratch.there[i/32].And(^uint32(1 << (i % 32)))
	}
	return n == len(dst)
}

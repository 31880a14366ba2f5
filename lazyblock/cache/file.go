package cache

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/lazyblock"
)

// file is what all handles of one blob share.
type file struct {
	store  *Store
	entry  *entry
	sparse *sparse

	fetching sync.WaitGroup // one for each fetch; shutdown waits

	// shutdown ends all fetches, then closes the file. Later calls wait for the
	// first and return its result.
	shutdown func() error

	waits waits // of readers for the origin

	mu      sync.Mutex
	done    bool
	fetches []*fetch // under way, no two overlap
	streams streams
	guesses guesses
	handles []*Blob // whose origins are asked, the newest last
}

func newFile(s *Store, e *entry, sp *sparse) *file {
	f := &file{store: s, entry: e, sparse: sp, guesses: guesses{size: s.opts.Guess / 2}}
	f.shutdown = sync.OnceValue(f.end)
	return f
}

func (f *file) addOrigin(b *Blob) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if b.origin != nil {
		f.handles = append(f.handles, b)
	}
}

func (f *file) dropOrigin(b *Blob) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.handles = slices.DeleteFunc(f.handles, func(other *Blob) bool { return other == b })
}

// origins returns what can be asked, the newest first: its credentials are the
// freshest.
func (f *file) origins() []lazyblock.RangeReader {
	f.mu.Lock()
	defer f.mu.Unlock()
	list := make([]lazyblock.RangeReader, 0, len(f.handles))
	for _, b := range slices.Backward(f.handles) {
		list = append(list, b.origin)
	}
	return list
}

// fetchOrigin fills p from the first origin that can, going on where the one before
// has ended.
func (f *file) fetchOrigin(ctx context.Context, p []byte, off int64) error {
	err := reason.Errorf(reason.RegistryUnreachable, "no origin to ask")
	done := 0
	for i, origin := range f.origins() {
		n, rerr := origin.ReadRange(ctx, p[done:], off+int64(done))
		done += n
		if done == len(p) && (rerr == nil || errors.Is(rerr, io.EOF)) {
			return nil
		}
		if rerr == nil || errors.Is(rerr, io.EOF) {
			rerr = io.ErrUnexpectedEOF
		}
		if i == 0 || ctx.Err() == nil {
			err = rerr
		}
		if ctx.Err() != nil {
			break
		}
	}
	return err
}

// readCached fills p if all of it is here.
func (f *file) readCached(p []byte, off int64) bool {
	first, end := f.sparse.span(off, int64(len(p)))
	if !f.sparse.sealed.Load() && !f.sparse.present.hasAll(first, end) {
		return false
	}
	n, err := f.sparse.data.ReadAt(p, off)
	return n == len(p) && (err == nil || errors.Is(err, io.EOF))
}

func (f *file) invalidate(off, n int64) error {
	first, end := f.sparse.span(off, n)
	gone, err := f.sparse.forget(first, end)
	f.store.unreserve(f.entry, gone)
	return err
}

func (f *file) closed() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.done
}

func (f *file) end() error {
	f.mu.Lock()
	f.done = true
	for _, fetch := range f.fetches {
		fetch.cancel()
	}
	f.mu.Unlock()
	f.fetching.Wait()
	return f.sparse.close()
}

// deadlineOf returns the deadline of ctx, or the zero time: a patient reader.
func deadlineOf(ctx context.Context) time.Time {
	deadline, _ := ctx.Deadline()
	return deadline
}

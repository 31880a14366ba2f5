package cache

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/referee-cri/referee/internal/reason"
)

var (
	// ErrNotWhole says that something of a blob is missing, or was forgotten
	// while it was looked at.
	ErrNotWhole = errors.New("blob is not whole")
	// ErrOtherContent says that a whole blob does not have its digest.
	ErrOtherContent = errors.New("blob has other content than its digest says")
)

// sealPiece is how much is read at a time to compute a digest.
const sealPiece = 1 << 20

// Missing returns the first run of blocks at or behind off that are not here, at
// most MaxRequest long; n is 0 where there is none.
func (b *Blob) Missing(off int64) (at, n int64) {
	s := b.file.sparse
	if off >= s.size || s.sealed.Load() {
		return off, 0
	}
	for block := max(off, 0) / s.blockSize; block < s.blocks(); block++ {
		has := s.present.has(block)
		switch {
		case !has && n == 0:
			at, n = block*s.blockSize, s.blockSize
		case !has && n < b.file.store.opts.MaxRequest:
			n += s.blockSize
		case n > 0:
			return at, n
		}
	}
	return at, max(min(n, s.size-at), 0)
}

// Sealed reports whether the whole blob is on disk, as Seal or SealAsIs left it.
func (b *Blob) Sealed() bool { return b.file.sparse.sealed.Load() }

// Seal compares a whole blob with the digest that it should have, and notes on
// disk that it has it: until something of it is invalidated it is sealed, after a
// restart too. pace is called after each n bytes that were read and may wait; its
// error ends the work. The error is ErrNotWhole or ErrOtherContent where it is
// about the blob; what is here stays as it was.
func (b *Blob) Seal(ctx context.Context, want digest.Digest, pace func(ctx context.Context, n int64) error) error {
	if b.Sealed() {
		return nil
	}
	s := b.file.sparse
	since := s.forgotten()
	verifier := want.Verifier()
	buffer := make([]byte, min(sealPiece, max(s.size, 1)))
	for off := int64(0); off < s.size; {
		p := buffer[:min(int64(len(buffer)), s.size-off)]
		if b.closed.Load() || !b.file.readCached(p, off) {
			return fmt.Errorf("seal cached blob %s: %w", want, ErrNotWhole)
		}
		_, _ = verifier.Write(p) // never fails
		off += int64(len(p))
		if err := pace(ctx, int64(len(p))); err != nil {
			return fmt.Errorf("seal cached blob %s: %w", want, err)
		}
	}
	if !verifier.Verified() {
		if s.forgotten() != since {
			return fmt.Errorf("seal cached blob %s: %w", want, ErrNotWhole)
		}
		return reason.Errorf(reason.DigestMismatch, "seal cached blob %s: %w", want, ErrOtherContent)
	}
	if err := s.seal(since, false); err != nil {
		return fmt.Errorf("seal cached blob %s: %w", want, err)
	}
	return nil
}

// SealAsIs says that nothing is missing of a blob that has no digest of its own:
// what is here is right, and what is not is zeros. It is noted on disk as by Seal.
func (b *Blob) SealAsIs() error {
	s := b.file.sparse
	if err := s.seal(s.forgotten(), true); err != nil {
		return fmt.Errorf("seal cached blob %s: %w", b.file.entry.digest, err)
	}
	return nil
}

// Path is the file that holds the blob, for others to read once it is sealed. It
// stays for as long as the handle is open.
func (b *Blob) Path() string {
	return filepath.Join(b.file.sparse.dir, b.file.sparse.id.fileName())
}

func (s *sparse) forgotten() uint64 {
	s.flushing.Lock()
	defer s.flushing.Unlock()
	return s.forgets
}

// seal makes all data durable and then the map that says that nothing is missing,
// unless blocks were forgotten since. zeros: blocks that are not here are zeros.
func (s *sparse) seal(since uint64, zeros bool) error {
	s.flushing.Lock()
	defer s.flushing.Unlock()
	switch {
	case s.broken.Load():
		return errBroken
	case s.forgets != since || !zeros && !s.present.hasAll(0, s.blocks()):
		return ErrNotWhole
	}
	words := s.present.words()
	if err := s.syncData(); err != nil {
		return err
	}
	s.zeros = zeros
	s.sealed.Store(true)
	if err := s.writeMap(words); err != nil {
		s.sealed.Store(false)
		s.zeros = false
		return err
	}
	s.durable = words
	return nil
}

// waits counts readers that wait and remembers the last. The zero value is ready.
type waits struct {
	now  atomic.Int64
	last atomic.Int64 // Unix nanoseconds; 0: never
}

func (w *waits) begin() (end func()) {
	w.now.Add(1)
	return func() {
		w.last.Store(time.Now().UnixNano())
		w.now.Add(-1)
	}
}

// at is when the last wait ended, now while there is one.
func (w *waits) at() time.Time {
	if w.now.Load() > 0 {
		return time.Now()
	}
	if last := w.last.Load(); last > 0 {
		return time.Unix(0, last)
	}
	return time.Time{}
}

// Waited tells when a reader last had to wait for what was missing, of this blob
// and of any in the store: now while one does, the zero time for never. A
// Prefetch is no reader.
func (b *Blob) Waited() (here, anywhere time.Time) {
	return b.file.waits.at(), b.file.store.waits.at()
}

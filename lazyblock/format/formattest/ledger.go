package formattest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
	"testing"

	"github.com/referee-cri/referee/lazyblock"
)

// piece is what is read of a device at a time, to see what of it depends on a byte
// of a blob. What is decoded together may be kept, and serve the pieces behind the
// one for which it was fetched: at most reach of them.
const (
	piece = 64 << 10
	reach = 64 // of 4 MiB
)

// ledger notes what is read of blobs.
type ledger struct {
	mu    sync.Mutex
	reads []blobRange
}

type blobRange struct {
	blob     int
	off, end int64
}

// take returns what was noted since it was last called.
func (l *ledger) take() []blobRange {
	l.mu.Lock()
	defer l.mu.Unlock()
	reads := l.reads
	l.reads = nil
	return reads
}

// noted is a blob whose reads are noted.
type noted struct {
	lazyblock.RangeReader
	ledger *ledger
	blob   int
}

func (n noted) ReadRange(ctx context.Context, p []byte, off int64) (int, error) {
	n.ledger.mu.Lock()
	n.ledger.reads = append(n.ledger.reads, blobRange{n.blob, off, off + int64(len(p))})
	n.ledger.mu.Unlock()
	return n.RangeReader.ReadRange(ctx, p, off)
}

// needs is what of blobs is needed to open a form, and for each piece of its devices.
type needs struct {
	open   []blobRange
	pieces [][][]blobRange // by device
}

// learn reads an intact form piece by piece.
func (b *bench) learn(t *testing.T) *needs {
	t.Helper()
	wants := b.intact(t)
	book := &ledger{}
	v := b.open(t, func(i int, data []byte) lazyblock.RangeReader { return noted{inMemory(i, data), book, i} })
	n := &needs{open: book.take()}
	buf := make([]byte, piece)
	for i, d := range devices(v) {
		var pieces [][]blobRange
		for at := 0; at < len(wants[i]); at += piece {
			if _, err := d.ReadRange(t.Context(), buf, int64(at)); err != nil && !errors.Is(err, io.EOF) {
				t.Fatal(err)
			}
			pieces = append(pieces, book.take())
		}
		n.pieces = append(n.pieces, pieces)
	}
	return n
}

// affected returns which pieces of a device may change with the byte at off of a
// blob; nil: all.
func (n *needs) affected(device, blob int, off int64) map[int]bool {
	if touched(n.open, blob, off) {
		return nil
	}
	found := map[int]bool{}
	for i, reads := range n.pieces[device] {
		if !touched(reads, blob, off) {
			continue
		}
		for next := i; next <= i+reach; next++ {
			found[next] = true
		}
	}
	return found
}

func touched(reads []blobRange, blob int, off int64) bool {
	for _, r := range reads {
		if r.blob == blob && r.off <= off && off < r.end {
			return true
		}
	}
	return false
}

// rightWhereRead reports whether everything of d that can be read is as wanted, of
// these pieces, or of all where that is nil.
func rightWhereRead(ctx context.Context, d lazyblock.Device, want []byte, pieces map[int]bool) bool {
	buf := make([]byte, piece)
	for at := 0; at < len(want); at += piece {
		if pieces != nil && !pieces[at/piece] {
			continue
		}
		n, err := d.ReadRange(ctx, buf, int64(at))
		if err == nil && n > 0 && !bytes.Equal(buf[:n], want[at:min(at+n, len(want))]) {
			return false
		}
	}
	return true
}

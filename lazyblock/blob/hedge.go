package blob

import (
	"context"
	"errors"
	"time"

	"github.com/referee-cri/referee/lazyblock"
)

// errOutrun ends the slower of two requests for the same range.
var errOutrun = errors.New("another request was faster")

// readSome makes one request, which must be answered within patience, and reads
// its answer into p. Where somebody waits and it takes longer than such ranges
// have lately, a second one runs against it. n may be less than len(p) without an
// error if the server answered with a shorter range.
func (b *Blob) readSome(ctx context.Context, p []byte, off int64, patience time.Duration) (n int, err error) {
	give, err := b.turn(ctx)
	if err != nil {
		return 0, err
	}
	defer give()
	host := b.opts.Host
	if host == nil || lazyblock.PriorityOf(ctx) == lazyblock.Background {
		return b.try(ctx, p, off, patience)
	}
	start := time.Now()
	if slow := host.pace.slow(len(p)); slow > 0 {
		n, err = b.race(ctx, p, off, patience, slow)
	} else {
		n, err = b.try(ctx, p, off, patience)
	}
	if err == nil && n == len(p) {
		host.pace.note(n, time.Since(start))
	}
	return n, err
}

// outcome is what a request brought.
type outcome struct {
	n   int
	err error
}

// race is try with a second request once the first is slow. It returns when both
// have ended: the first that brings everything ends the other.
func (b *Blob) race(ctx context.Context, p []byte, off int64, patience, slow time.Duration) (int, error) {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	first := make(chan outcome, 1)
	go func() { // always received from
		n, err := b.try(ctx, p, off, patience)
		first <- outcome{n, err}
	}()
	timer := time.NewTimer(slow)
	defer timer.Stop()
	select {
	case got := <-first:
		return got.n, got.err
	case <-timer.C:
	}
	give, ok := b.spareTurn()
	if !ok {
		got := <-first
		return got.n, got.err
	}
	defer give()
	if b.opts.Hedged != nil {
		b.opts.Hedged()
	}

	q := make([]byte, len(p))
	second := make(chan outcome, 1)
	go func() { // always received from
		n, err := b.try(withoutProgress(ctx), q, off, patience)
		second <- outcome{n, err}
	}()
	select {
	case got := <-first:
		if got.err != nil {
			if other := <-second; other.err == nil && other.n > got.n {
				return got.n + copy(p[got.n:], q[got.n:other.n]), nil
			}
			return got.n, got.err
		}
		end(errOutrun)
		<-second
		return got.n, nil
	case got := <-second:
		if got.err != nil {
			other := <-first
			return other.n, other.err
		}
		end(errOutrun)
		other := <-first
		if other.n >= got.n {
			return other.n, nil
		}
		return other.n + copy(p[other.n:], q[other.n:got.n]), nil // what the caller was told of stays
	}
}

// spareTurn takes a turn for a second request, where there is one to spare.
func (b *Blob) spareTurn() (give func(), ok bool) {
	mine, ok := b.turns.spare()
	if !ok {
		return nil, false
	}
	ours, ok := b.opts.Host.turns.spare()
	if !ok || !b.opts.Host.pace.pay() {
		if ok {
			ours()
		}
		mine()
		return nil, false
	}
	return func() { ours(); mine() }, true
}

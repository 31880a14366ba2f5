package blob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/internal/registry"
	"github.com/referee-cri/referee/lazyblock"
)

// minProgress is what a body must bring within Options.StallTimeout, and what a
// failed try must have brought to count as progress. A server that trickles
// single bytes must not hold a reader for ever.
const minProgress = 16 << 10

var (
	errStalled = errors.New("body stalled")
	errSilent  = errors.New("no answer")
)

// try makes one request, which must be answered within patience, and reads its
// answer into p; see readSome.
func (b *Blob) try(ctx context.Context, p []byte, off int64, patience time.Duration) (n int, err error) {
	if observe := b.opts.Observe; observe != nil {
		asked := ctx
		defer func(begin time.Time) {
			if !outrun(asked) {
				observe(lazyblock.PriorityOf(asked), time.Since(begin), n, err)
			}
		}(time.Now())
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil) // ends the connection where its body was not read to the end

	stall := time.AfterFunc(patience, func() { cancel(errStalled) })
	defer stall.Stop()
	resp, err := b.ask(ctx, off, len(p))
	if err != nil {
		if errors.Is(context.Cause(ctx), errStalled) {
			err = reason.Errorf(reason.RegistryUnreachable, "%w within %s", errSilent, patience)
		}
		return 0, err
	}
	defer func() { _ = resp.Body.Close() }() // costs at most the connection
	stall.Reset(b.opts.StallTimeout)

	have, err := seekAnswer(resp, off, len(p))
	if err == nil {
		n, err = readBody(resp.Body, p[:have], progressOf(ctx), func() { stall.Reset(b.opts.StallTimeout) })
		b.bytes.Add(int64(n))
	}
	if err != nil {
		b.failures.Add(1)
		if !outrun(ctx) {
			b.forget(resp.At)
		}
		err = bodyError(ctx, resp.Host, err)
		if reason.Of(err) == reason.RegistryUnreachable {
			resp.At.Failed()
		}
		return n, err
	}
	b.at.Store(resp.At)
	return n, nil
}

// turn waits until a request may be made, for this blob and to its registry.
func (b *Blob) turn(ctx context.Context) (give func(), err error) {
	mine, err := b.turns.take(ctx)
	if err != nil || b.opts.Host == nil {
		return mine, err
	}
	ours, err := b.opts.Host.turns.take(ctx)
	if err != nil {
		mine()
		return nil, err
	}
	return func() { ours(); mine() }, nil
}

// ask sends the request to where the blob was found last. Where that does not
// serve it any more it asks anew through the registry: a signed URL that has
// expired is answered with 400, 401, 403, 404 or 410, depending on the storage.
func (b *Blob) ask(ctx context.Context, off int64, n int) (*registry.Response, error) {
	at := b.at.Load()
	resp, err := b.askAt(ctx, off, n, at)
	if err == nil || at == nil || outrun(ctx) {
		return resp, err
	}
	b.forget(at)
	if ctx.Err() != nil || overloaded(err) {
		return nil, err
	}
	return b.askAt(ctx, off, n, nil)
}

func (b *Blob) askAt(ctx context.Context, off int64, n int, at *registry.Location) (*registry.Response, error) {
	b.requests.Add(1)
	resp, err := b.src.Do(ctx, b.request(off, n, at))
	if err != nil {
		b.failures.Add(1)
	}
	return resp, err
}

// outrun reports whether a request was ended because it was not needed any more,
// which says nothing against the place it went to.
func outrun(ctx context.Context) bool { return errors.Is(context.Cause(ctx), errOutrun) }

// overloaded reports whether asking again at once would make it worse.
func overloaded(err error) bool {
	status, ok := errors.AsType[*registry.StatusError](err)
	return ok && (status.StatusCode == http.StatusTooManyRequests || status.StatusCode >= 500)
}

// forget drops a location unless another read has found a newer one.
func (b *Blob) forget(at *registry.Location) {
	if known := b.at.Load(); known.Same(at) {
		b.at.CompareAndSwap(known, nil)
	}
}

// readBody fills p, tells more of what each read brought, and calls alive at every
// minProgress bytes.
func readBody(body io.Reader, p []byte, more func(n int), alive func()) (n int, err error) {
	since := 0
	for n < len(p) {
		m, err := body.Read(p[n:])
		n += m
		more(m)
		if since += m; since >= minProgress {
			since = 0
			alive()
		}
		if err != nil && n < len(p) {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return n, err
		}
	}
	return n, nil
}

// bodyError says why a body could not be read: because the caller left, because
// of us (stall), or because of the connection.
func bodyError(ctx context.Context, host string, err error) error {
	switch {
	case errors.Is(context.Cause(ctx), errStalled):
		return reason.Errorf(reason.RegistryUnreachable, "read answer of %s: %w", host, errStalled)
	case ctx.Err() != nil:
		return context.Cause(ctx)
	default:
		return reason.Wrap(reason.RegistryUnreachable, fmt.Errorf("read answer of %s: %w", host, err))
	}
}

package blob

import (
	"context"
	"io"
	"net/http"
	"sync/atomic"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/zap"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/internal/registry"
	"github.com/referee-cri/referee/lazyblock"
)

// Source asks a repository. *registry.Repository is one.
type Source interface {
	Do(ctx context.Context, req registry.Request) (*registry.Response, error)
}

var (
	_ Source                = (*registry.Repository)(nil)
	_ lazyblock.RangeReader = (*Blob)(nil)
)

// Options bound how hard a Blob tries. The zero value has the defaults.
type Options struct {
	// GiveUpAfter bounds how long a read without a deadline goes on trying
	// without getting anything. Default one minute: container processes wait in
	// the kernel meanwhile, and get EIO after it.
	GiveUpAfter time.Duration

	// StallTimeout is the time in which a body must bring its next 16 KiB (or
	// its end). Default 10s; never longer than GiveUpAfter.
	StallTimeout time.Duration

	// MinBackoff and MaxBackoff bound the pause before another try, which
	// doubles from one to the other. Default 100ms and 5s.
	MinBackoff, MaxBackoff time.Duration

	// MaxRequests is how many requests for this blob may be under way at once;
	// others queue, Background behind Demand. Default 8.
	MaxRequests int

	// Host bounds the requests of all blobs of the registry, and knows its pace:
	// a range that somebody waits for and that takes longer than nearly all have
	// lately is asked for a second time. nil: each blob is by itself.
	Host *Host

	// Observe is told of every request that was answered or failed, by many
	// goroutines at once; n is how many bytes it brought. It must not block. nil:
	// nobody is told.
	Observe func(p lazyblock.Priority, took time.Duration, n int, err error)

	// Hedged is told of every range that is asked for a second time, just before, by
	// many goroutines at once. It must not block. nil: nobody is told.
	Hedged func()

	Log *zap.Logger // retries, at debug level; default: silent
}

func (o *Options) setDefaults() {
	if o.GiveUpAfter == 0 {
		o.GiveUpAfter = time.Minute
	}
	if o.StallTimeout == 0 {
		o.StallTimeout = 10 * time.Second
	}
	o.StallTimeout = min(o.StallTimeout, o.GiveUpAfter)
	if o.MinBackoff == 0 {
		o.MinBackoff = 100 * time.Millisecond
	}
	if o.MaxBackoff == 0 {
		o.MaxBackoff = 5 * time.Second
	}
	if o.MaxRequests == 0 {
		o.MaxRequests = 8
	}
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
}

// Stats counts what a Blob has done since it was opened.
type Stats struct {
	Requests int64 // HTTP requests made, failed ones included; redirects count once
	Failures int64 // of these, how many did not bring all they were asked for
	Bytes    int64 // body bytes received
}

// Blob is one blob of one repository. It is safe for concurrent use and holds
// nothing that must be closed.
type Blob struct {
	src   Source
	desc  ocispec.Descriptor
	opts  Options
	turns *turns

	// at is where the last answer came from: a signed storage URL, or the
	// mirror that has the blob. Any failure there forgets it.
	at atomic.Pointer[registry.Location]

	requests, failures, bytes atomic.Int64
}

// Open returns the blob that desc names in src. It makes no request: a wrong
// descriptor shows at the first read.
func Open(src Source, desc ocispec.Descriptor, opts Options) *Blob {
	opts.setDefaults()
	return &Blob{src: src, desc: desc, opts: opts, turns: newTurns(opts.MaxRequests)}
}

// Size is the descriptor's size. Servers that have another one are refused.
func (b *Blob) Size() int64 { return b.desc.Size }

// Stats returns the counters.
func (b *Blob) Stats() Stats {
	return Stats{Requests: b.requests.Load(), Failures: b.failures.Load(), Bytes: b.bytes.Load()}
}

// ReadRange fills p with the bytes from off; see lazyblock.RangeReader.
//
// With a deadline in ctx somebody is waiting who has another way: it tries at
// most three times and gives up at once where trying again cannot help. Without
// one, a device stands on the blob, and it tries for Options.GiveUpAfter. Errors
// carry a reason: RegistryUnreachable, RegistryError, Unauthorized, NotFound,
// NoRange or SizeMismatch.
func (b *Blob) ReadRange(ctx context.Context, p []byte, off int64) (int, error) {
	if err := b.desc.Digest.Validate(); err != nil {
		return 0, reason.Errorf(reason.ArtifactInvalid, "read blob %q: %w", b.desc.Digest, err)
	}
	if off < 0 {
		return 0, reason.Errorf(reason.Internal, "read blob %s at %d: negative offset", b.desc.Digest, off)
	}
	var end error
	if rest := b.desc.Size - off; rest < int64(len(p)) {
		p, end = p[:max(rest, 0)], io.EOF
	}
	if len(p) == 0 {
		return 0, end
	}
	n, err := b.readAll(ctx, p, off)
	if err != nil {
		return n, reasonedRead(b.desc, off+int64(n), len(p)-n, err)
	}
	return n, end
}

// request asks for [off, off+n).
func (b *Blob) request(off int64, n int, at *registry.Location) registry.Request {
	return registry.Request{
		Method:     http.MethodGet,
		Path:       "blobs/" + b.desc.Digest.String(),
		Capability: registry.Pull,
		At:         at,
		Accept:     func(resp *registry.Response) error { return checkAnswer(resp, b.desc, off, n) },
		Header: http.Header{
			"Range":           {rangeHeader(off, n)},
			"Accept-Encoding": {"identity"},
		},
	}
}

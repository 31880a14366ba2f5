package overlaybd

import (
	"context"
	"fmt"
	"sync"

	"golang.org/x/sync/semaphore"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/lazyblock"
)

// layer is one opened layer. It does not change after it has been opened and
// is shared by the devices of all prefixes of its stack.
type layer struct {
	number      int                   // in the stack, 0 is the bottom
	blob        lazyblock.RangeReader // while opening: a readAhead
	payload     span                  // of the blob, without tar
	z           *zfile                // nil: the payload is the LSMT file itself
	size        int64                 // of the LSMT file
	virtualSize int64                 // bytes, 0: as below
	segments    []segment
	remote      *layer      // TurboOCI's: as a layer without tar, ZFile and segments
	isRemote    bool        // it is another one's remote
	buffers     *bufferPool // shared by the stack
}

// openTries is how often a layer is read whose bytes break the format: it is read in
// up to three steps, and a cache may be wrong in each.
const openTries = 4

// openLayer opens one layer. Bytes that break the format are dropped from the
// cache below, if there is one, and read anew.
func openLayer(ctx context.Context, number int, source Layer, limits *openLimits) (*layer, error) {
	blob := source.Blob
	if blob.Size() <= 0 {
		return nil, reason.Errorf(reason.FormatCorrupt, "open layer %d: blob of %d bytes", number, blob.Size())
	}
	n := guessedBytes(blob.Size())
	if err := limits.buffers.Acquire(ctx, n); err != nil {
		return nil, err
	}
	defer limits.buffers.Release(n)

	ahead := &readAhead{blob: blob}
	remote := remoteLayer(number, source.Remote)
	l, err := tryOpenLayer(ctx, ahead, remote, limits)
	for try := 1; try < openTries && reason.Of(err) == reason.FormatCorrupt && ahead.forget(ctx); try++ {
		l, err = tryOpenLayer(ctx, ahead, remote, limits)
	}
	if err != nil {
		return nil, fmt.Errorf("open layer %d: %w", number, err)
	}
	l.number = number
	return l, nil
}

func tryOpenLayer(ctx context.Context, ahead *readAhead, remote *layer, limits *openLimits) (*layer, error) {
	err := ahead.start(ctx)
	if err != nil {
		return nil, err
	}
	defer func() {
		limits.extra.Release(ahead.charged)
		ahead.charged = 0
	}()
	l := &layer{blob: ahead, remote: remote, buffers: limits.pool}
	if l.payload, err = tarPayload(ctx, ahead); err != nil {
		return nil, err
	}
	var magic [len(lsmtMagic)]byte
	if l.payload.len < int64(len(magic)) {
		return nil, reason.Errorf(reason.FormatCorrupt, "payload of %d bytes", l.payload.len)
	}
	if err := lazyblock.ReadFull(ctx, ahead, magic[:], l.payload.off); err != nil {
		return nil, err
	}
	switch {
	case hasMagic(magic[:], zfileMagic):
		if l.z, err = openZFile(ctx, ahead, l.payload, limits); err != nil {
			return nil, err
		}
		l.size = l.z.size
	case hasMagic(magic[:], lsmtMagic):
		l.size = l.payload.len
	default:
		return nil, reason.Errorf(reason.FormatCorrupt, "neither ZFile nor LSMT: payload begins %x", magic[:8])
	}
	if err := l.readLSMT(ctx, ahead, limits); err != nil {
		return nil, err
	}
	l.blob = ahead.blob // what was read ahead is let go
	return l, nil
}

// Bounds on what one stack may take, whatever its layers claim.
const (
	maxLayers        = 255
	maxStackBlocks   = 1 << 27   // 512 GiB in 4 KiB blocks: 256 MiB of index
	maxStackSegments = 8_000_000 // 128 MiB, twice
	openBuffers      = 64 << 20  // of guessed heads and tails at a time, and as much for indexes beyond them
)

// openLimits is what the layers of a stack share while they are opened.
type openLimits struct {
	buffers *semaphore.Weighted // a layer acquires these first
	extra   *semaphore.Weighted // and these second, once: no two layers wait for each other
	pool    *bufferPool

	mu       sync.Mutex
	blocks   uint64
	segments uint64
	decoders map[Algorithm]decoder
}

func newOpenLimits() *openLimits {
	return &openLimits{
		buffers:  semaphore.NewWeighted(openBuffers),
		extra:    semaphore.NewWeighted(openBuffers),
		pool:     &bufferPool{},
		decoders: map[Algorithm]decoder{},
	}
}

func (o *openLimits) addBlocks(n uint64) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.blocks += n; o.blocks > maxStackBlocks {
		return reason.Errorf(reason.FormatCorrupt, "the layers have more than %d blocks", maxStackBlocks)
	}
	return nil
}

func (o *openLimits) addSegments(n uint64) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.segments += n; o.segments > maxStackSegments {
		return reason.Errorf(reason.FormatCorrupt, "the layers have more than %d segments", maxStackSegments)
	}
	return nil
}

// decoder returns the one decoder that a stack has for a.
func (o *openLimits) decoder(a Algorithm) (decoder, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if d, ok := o.decoders[a]; ok {
		return d, nil
	}
	d, err := newDecoder(a)
	if err == nil {
		o.decoders[a] = d
	}
	return d, err
}

package formattest

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"

	"github.com/referee-cri/referee/lazyblock"
)

// errOnPurpose is what a bad day's reads fail with.
var errOnPurpose = errors.New("the blob fails on purpose")

// badDay is a blob whose reads fail, end early or are wrong at times.
type badDay struct {
	lazyblock.RangeReader
	wrong bool // bytes may be wrong

	mu   sync.Mutex
	rng  *rand.Rand
	over bool
}

func (b *badDay) ReadRange(ctx context.Context, p []byte, off int64) (int, error) {
	n, err := b.RangeReader.ReadRange(ctx, p, off)
	b.mu.Lock()
	defer b.mu.Unlock()
	if err != nil || n == 0 || b.over {
		return n, err
	}
	switch b.rng.IntN(8) {
	case 0:
		return 0, errOnPurpose
	case 1:
		return b.rng.IntN(n), errOnPurpose
	case 2:
		if b.wrong {
			p[b.rng.IntN(n)] ^= byte(1 + b.rng.IntN(255))
		}
	}
	return n, nil
}

func (b *badDay) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.over = true
}

// rotten is a blob in a cache that has one byte in so many wrong until it is told
// to forget it.
type rotten struct {
	lazyblock.RangeReader

	mu     sync.Mutex
	healed map[int64]bool // by block
}

const (
	rotBlock = 4096 // of the cache
	rotEvery = 5    // one block in so many is wrong
)

var _ lazyblock.Invalidator = (*rotten)(nil)

func (r *rotten) ReadRange(ctx context.Context, p []byte, off int64) (int, error) {
	n, err := r.RangeReader.ReadRange(ctx, p, off)
	r.mu.Lock()
	defer r.mu.Unlock()
	for block := off / rotBlock; block*rotBlock < off+int64(n); block++ {
		at := block*rotBlock + block*7919%rotBlock
		if block%rotEvery == 0 && !r.healed[block] && at >= off && at < off+int64(n) {
			p[at-off] ^= 0x55
		}
	}
	return n, err
}

func (r *rotten) Invalidate(_ context.Context, off, n int64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for block := off / rotBlock; block*rotBlock < off+n; block++ {
		r.healed[block] = true
	}
	return nil
}

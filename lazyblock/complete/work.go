package complete

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/zap"

	"github.com/referee-cri/referee/internal/pause"
	"github.com/referee-cri/referee/lazyblock"
	"github.com/referee-cri/referee/lazyblock/cache"
)

const (
	// piece is how much is fetched between two looks at what readers do.
	piece = 1 << 20
	// yield is how long nobody on the node may have waited for a registry before
	// the next piece is fetched.
	yield = time.Second
	// yieldAtMost bounds how long a node full of readers can hold completion up
	// between two pieces: demand goes first at each registry anyway.
	yieldAtMost = 30 * time.Second
	// verifyFactor is how much faster than fetched the cache file is read to compute
	// its digest.
	verifyFactor = 8
	// noteEvery is how often progress is written down.
	noteEvery = 10 * time.Second
)

// busyError says that it is not the volume's turn.
type busyError struct{ in time.Duration }

func (*busyError) Error() string { return "its readers wait for the registry" }

// complete fetches and seals the blobs of m, one after the other. An error says why
// it came to no end.
func (c *Companion) complete(ctx context.Context, m *mounted) error {
	if c.quarantine.holds(m.id) { // nothing that is built on it is worth completing
		c.cleanse(ctx, m)
		return nil
	}
	// Maybe found by the completion of another volume that shares it.
	if i := slices.IndexFunc(m.wanted, func(layer ocispec.Descriptor) bool {
		return c.quarantine.condemns(m.spec.Repository, layer.Digest)
	}); i >= 0 {
		return c.condemn(ctx, m, i)
	}
	for i, b := range m.blobs {
		if b.Sealed() {
			continue
		}
		if err := c.fetch(ctx, m, b); err != nil {
			return fmt.Errorf("complete blob %s: %w", m.wanted[i].Digest, err)
		}
		err := b.Seal(ctx, m.wanted[i].Digest, func(ctx context.Context, n int64) error { return c.pace(ctx, n/verifyFactor) })
		if errors.Is(err, cache.ErrOtherContent) {
			c.count(func(s *Stats) { s.OtherContent++ })
			return c.condemn(ctx, m, i)
		}
		if err != nil {
			return fmt.Errorf("complete blob %s: %w", m.wanted[i].Digest, err)
		}
		c.count(func(s *Stats) { s.SealedBlobs++; s.SealedBytes += b.Size() })
		m.log.Info("blob sealed", zap.Stringer("digest", m.wanted[i].Digest), zap.Int64("bytes", b.Size()))
	}
	if !m.whole {
		m.whole = true
		m.log.Info("volume complete: it needs its registry no more")
	}
	return nil
}

// fetch fetches what is missing of b.
func (c *Companion) fetch(ctx context.Context, m *mounted, b completable) error {
	ctx = lazyblock.WithPriority(ctx, lazyblock.Background)
	for {
		at, n := b.Missing(0)
		if n == 0 {
			return nil
		}
		n = min(n, piece)
		if err := c.turn(ctx, m); err != nil {
			return err
		}
		if err := c.opts.Spare(n); err != nil {
			return err
		}
		begin := time.Now()
		if err := b.Prefetch(ctx, at, n); err != nil {
			return err
		}
		if still, left := b.Missing(at); left > 0 && still < at+n {
			return errors.New("the cache does not keep what is fetched")
		}
		if time.Since(m.noted) >= noteEvery {
			c.note(m, "")
		}
		m.pauses = 0
		if err := c.pace(ctx, n-int64(time.Since(begin).Seconds()*float64(c.opts.Rate))); err != nil {
			return err
		}
	}
}

// turn waits while somebody on the node waits for a registry, and ends m's turn
// where its own readers do.
func (c *Companion) turn(ctx context.Context, m *mounted) error {
	for begin := time.Now(); ; {
		var here, anywhere time.Time
		for _, b := range m.blobs {
			h, a := b.Waited()
			if h.After(here) {
				here = h
			}
			anywhere = a
		}
		if quiet := time.Since(here); quiet < c.opts.Delay {
			return &busyError{in: c.opts.Delay - quiet}
		}
		if time.Since(anywhere) >= yield || time.Since(begin) >= yieldAtMost {
			return nil
		}
		if err := pause.For(ctx, yield/4); err != nil {
			return err
		}
	}
}

// pace takes the time that n bytes take at the rate.
func (c *Companion) pace(ctx context.Context, n int64) error {
	return pause.For(ctx, time.Duration(float64(max(n, 0))/float64(c.opts.Rate)*float64(time.Second)))
}

// condemn quarantines the volume of m because of its blob i, and has the blob
// fetched anew by whoever reads it.
func (c *Companion) condemn(ctx context.Context, m *mounted, i int) error {
	layer := m.wanted[i]
	q := Quarantine{
		Volume: m.id, Reference: m.spec.Reference, Repository: m.spec.Repository, Chain: m.spec.Chain,
		Artifact: m.spec.Artifact.Digest, Blob: layer.Digest, Time: time.Now().UTC(),
	}
	// First the record: after a crash between the two it tells what to forget.
	if err := c.quarantine.add(q); err != nil {
		return err
	}
	m.log.Error("form quarantined: a blob is not what its digest says; containers that run from it may have read wrong bytes and must be replaced",
		zap.Stringer("digest", layer.Digest), zap.String("repository", q.Repository), zap.Stringer("artifact", q.Artifact), zap.Stringer("chain", q.Chain))
	c.cleanse(ctx, m)
	return nil
}

// cleanse forgets, once a mount, the blobs of m that are known to be wrong.
func (c *Companion) cleanse(ctx context.Context, m *mounted) {
	if m.cleansed {
		return
	}
	m.cleansed = true
	for i, layer := range m.wanted {
		if !c.quarantine.condemns(m.spec.Repository, layer.Digest) {
			continue
		}
		if err := m.blobs[i].Invalidate(ctx, 0, layer.Size); err != nil {
			m.log.Warn("forgetting a wrong blob", zap.Error(err))
			m.cleansed = false
		}
	}
}

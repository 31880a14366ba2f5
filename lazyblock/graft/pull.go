package graft

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/referee-cri/referee/internal/reason"
)

// ErrPresent says that the top chain holds real content already: there is
// nothing to graft.
var ErrPresent = errors.New("top chain exists already")

// Pull is one pull that is about to be forwarded. The chains it depends on keep
// their meaning until End.
type Pull struct {
	g      *Grafter
	chains []digest.Digest
	hold   *hold
	lease  *leases.Lease // nil where nothing had to be made
	end    sync.Once
}

// Shield readies the snapshotter for an ordinary pull of an image with these
// chains, bottom first: no placeholder stands for a chain that the pull must
// unpack, and a placeholder stands for every chain below one that is grafted,
// so that containerd finds the way up to it without fetching anything. Without
// chains the pull is taken to concern every image.
func (g *Grafter) Shield(ctx context.Context, chains []digest.Digest) (*Pull, error) {
	if len(chains) == 0 {
		held, err := g.locks.acquire(ctx, hold{all: true})
		if err != nil {
			return nil, fmt.Errorf("wait for lazy pulls: %w", err)
		}
		return &Pull{g: g, hold: held}, nil
	}
	return g.begin(ctx, chains, func(states []State) int {
		for i := range slices.Backward(states) {
			if states[i] == Ordinary || states[i] == Grafted {
				return i
			}
		}
		return 0
	})
}

// Begin readies the snapshotter for a graft of chains' top: placeholders stand
// below it. It fails with ErrPresent if the top chain exists.
func (g *Grafter) Begin(ctx context.Context, chains []digest.Digest) (*Pull, error) {
	if len(chains) == 0 {
		return nil, reason.Errorf(reason.GraftFailed, "image has no layers")
	}
	pull, err := g.begin(ctx, chains, func([]State) int { return len(chains) - 1 })
	if err != nil {
		return nil, err
	}
	state, err := g.State(ctx, pull.top())
	if err == nil && (state == Ordinary || state == Grafted) {
		err = reason.Wrap(reason.AlreadyPresent, ErrPresent)
	}
	if err != nil {
		pull.End(context.WithoutCancel(ctx))
		return nil, err
	}
	return pull, nil
}

// begin holds the chains from lowest(states) upwards for their content and what is
// missing below as placeholders, and brings the snapshotter into that state.
func (g *Grafter) begin(ctx context.Context, chains []digest.Digest, lowest func([]State) int) (*Pull, error) {
	ctx = g.context(ctx)
	for {
		states, err := g.states(ctx, chains)
		if err != nil {
			return nil, reason.Wrap(reason.GraftFailed, err)
		}
		want := split(chains, states, lowest(states))
		held, err := g.locks.acquire(ctx, want)
		if err != nil {
			return nil, fmt.Errorf("wait for other pulls of the same layers: %w", err)
		}
		pull := &Pull{g: g, chains: chains, hold: held}
		again, err := g.states(ctx, chains)
		settled := err == nil && sameSplit(want, split(chains, again, lowest(again)))
		if settled {
			settled, err = pull.settle(ctx, again)
		}
		if settled {
			return pull, nil
		}
		pull.End(context.WithoutCancel(ctx))
		if err != nil {
			return nil, reason.Wrap(reason.GraftFailed, err)
		}
		// The wait changed what there is.
	}
}

// split divides chains: those below index lowest that hold no content get
// placeholders, all others are needed as they are or will be.
func split(chains []digest.Digest, states []State, lowest int) hold {
	var want hold
	for i, chain := range chains {
		if i < lowest && (states[i] == Absent || states[i] == Placeholder) {
			want.standIn = append(want.standIn, chain)
		} else {
			want.real = append(want.real, chain)
		}
	}
	return want
}

func sameSplit(a, b hold) bool {
	return slices.Equal(a.real, b.real) && slices.Equal(a.standIn, b.standIn)
}

// settle removes stale placeholders among the chains held for their content, and
// makes those that are missing. It reports whether what the pull depends on is
// still what states says.
func (p *Pull) settle(ctx context.Context, states []State) (bool, error) {
	for i, chain := range p.chains {
		if states[i] == Placeholder && slices.Contains(p.hold.real, chain) {
			if err := p.g.removePlaceholder(ctx, chain); err != nil {
				return false, err
			}
		}
	}
	if len(p.hold.standIn) == 0 {
		return true, nil
	}
	ctx, err := p.leased(ctx)
	if err != nil {
		return false, err
	}
	// containerd syncs its database in every one of these steps; it can batch
	// those that come together.
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(4)
	settled := make([]bool, len(p.chains))
	for i, chain := range p.chains {
		group.Go(func() (err error) {
			switch {
			case slices.Contains(p.hold.standIn, chain):
				settled[i], err = true, p.standIn(ctx, chain, states[i])
			case states[i] == Grafted:
				settled[i], err = p.keep(ctx, chain, Grafted)
			default:
				settled[i] = true
			}
			return err
		})
	}
	err = group.Wait()
	return err == nil && !slices.Contains(settled, false), err
}

// standIn makes a placeholder for chain, or keeps that of another pull.
func (p *Pull) standIn(ctx context.Context, chain digest.Digest, state State) error {
	for {
		if state == Absent {
			if made, err := p.g.makePlaceholder(ctx, chain); made || err != nil {
				return err
			}
		}
		if kept, err := p.keep(ctx, chain, Placeholder); kept || err != nil {
			return err
		}
		state = Absent // it went just before
	}
}

// keep puts what another pull made under this one's lease, too: with that pull goes
// its own, and containerd would collect what this one still needs for its way up
// the chains. It reports whether the chain is in the state.
func (p *Pull) keep(ctx context.Context, chain digest.Digest, want State) (bool, error) {
	if err := p.g.leases.AddResource(ctx, *p.lease, leases.Resource{ID: chain.String(), Type: p.g.resources}); err != nil {
		return false, fmt.Errorf("keep snapshot %s: %w", chain, err)
	}
	state, err := p.g.State(ctx, chain)
	return state == want, err
}

// leased returns ctx with the pull's lease, which it makes on first use.
func (p *Pull) leased(ctx context.Context) (context.Context, error) {
	ctx = p.g.context(ctx)
	if p.lease == nil {
		lease, err := p.g.newLease(ctx, leaseLife)
		if err != nil {
			return nil, err
		}
		p.lease = &lease
	}
	return leases.WithLease(ctx, p.lease.ID), nil
}

// Leased runs f with a context under which everything that containerd is given
// survives garbage collection until End.
func (p *Pull) Leased(ctx context.Context, f func(context.Context) error) error {
	ctx, err := p.leased(ctx)
	if err != nil {
		return err
	}
	return f(ctx)
}

// Graft commits the top chain as a link to the volume, which must be mounted at
// <VolumesDir>/<volume>/root. If another pull was faster it fails with ErrPresent:
// what stands there may have been attached on somebody else's word.
func (p *Pull) Graft(ctx context.Context, volume string) error {
	ctx, err := p.leased(ctx)
	if err != nil {
		return reason.Wrap(reason.GraftFailed, err)
	}
	err = p.g.graft(ctx, p.top(), volume)
	switch {
	case err == nil:
		return nil
	case errdefs.IsAlreadyExists(err):
		return reason.Wrap(reason.AlreadyPresent, ErrPresent)
	default:
		return reason.Wrap(reason.GraftFailed, fmt.Errorf("graft %s: %w", p.top(), err))
	}
}

// End takes away what only this pull needed. It must be called once the
// forwarded pull has ended, and may be called again. What cannot be removed now
// is left to containerd's garbage collection.
func (p *Pull) End(ctx context.Context) {
	p.end.Do(func() {
		ctx = p.g.context(ctx)
		p.hold.release(func(chain digest.Digest) {
			if err := p.g.removePlaceholder(ctx, chain); err != nil {
				p.g.log.Warn("placeholder left to garbage collection", zap.Stringer("chain", chain), zap.Error(err))
			}
		})
		if p.lease == nil {
			return
		}
		if err := p.g.leases.Delete(ctx, *p.lease); err != nil && !errdefs.IsNotFound(err) {
			p.g.log.Warn("lease left to expire", zap.String("lease", p.lease.ID), zap.Error(err))
		}
	})
}

func (p *Pull) top() digest.Digest { return p.chains[len(p.chains)-1] }

// makePlaceholder returns false if another pull made the same one meanwhile.
func (g *Grafter) makePlaceholder(ctx context.Context, chain digest.Digest) (bool, error) {
	key, where, err := g.prepare(ctx)
	if err != nil {
		return false, fmt.Errorf("placeholder for %s: %w", chain, err)
	}
	err = where.link(brokenLink)
	if err == nil {
		err = g.snapshots.Commit(ctx, chain.String(), key, snapshots.WithLabels(map[string]string{labelPlaceholder: "true"}))
	}
	if err == nil {
		return true, nil
	}
	removeErr := g.snapshots.Remove(ctx, key)
	if errdefs.IsAlreadyExists(err) {
		return false, removeErr
	}
	return false, errors.Join(fmt.Errorf("placeholder for %s: %w", chain, err), removeErr)
}

// removePlaceholder removes the snapshot of chain if it is a placeholder.
func (g *Grafter) removePlaceholder(ctx context.Context, chain digest.Digest) error {
	state, err := g.State(ctx, chain)
	if err != nil || state != Placeholder {
		return err
	}
	if err := g.snapshots.Remove(ctx, chain.String()); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("remove placeholder of %s: %w", chain, err)
	}
	return nil
}

func (g *Grafter) graft(ctx context.Context, chain digest.Digest, volume string) error {
	key, where, err := g.prepare(ctx)
	if err != nil {
		return err
	}
	g.setRoot(where)
	if err := g.bindFresh(where, volume); err != nil {
		return errors.Join(err, g.discard(ctx, key, where))
	}
	defer g.settled(where)
	labels := map[string]string{labelVolume: volume, labelDirectory: where.dir}
	err = g.snapshots.Commit(ctx, chain.String(), key, snapshots.WithLabels(labels))
	if err == nil {
		return nil
	}
	return errors.Join(err, g.discard(ctx, key, where))
}

// bindFresh binds the volume and exchanges the link, and keeps Reconcile from
// taking the bind for a leftover.
func (g *Grafter) bindFresh(where place, volume string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.busy[where.dir] = struct{}{}
	if err := where.mountVolume(filepath.Join(g.volumes, volume)); err != nil {
		return err
	}
	return where.link(graftLink)
}

func (g *Grafter) settled(where place) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.busy, where.dir)
}

// discard undoes an uncommitted graft.
func (g *Grafter) discard(ctx context.Context, key string, where place) error {
	ctx = context.WithoutCancel(ctx)
	g.settled(where)
	err := where.unmount()
	if removeErr := g.snapshots.Remove(ctx, key); removeErr != nil && !errdefs.IsNotFound(removeErr) {
		err = errors.Join(err, removeErr)
	}
	return err
}

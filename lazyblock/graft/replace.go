package graft

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"

	"github.com/referee-cri/referee/internal/reason"
)

// finishTimeout bounds what follows the exchange. The caller's context does not:
// half of it done is done again by Reconcile.
const finishTimeout = time.Minute

// Replace exchanges the graft under chain for a plain directory with the same
// content. fill makes the directory: dir does not exist, but the directory it is
// in does, and is fill's alone. What fill leaves there is on disk and right, or it
// returns an error and the graft stays as it was.
//
// Containers that run keep what they read: the volume is Wanted until the last of
// them is gone. Containers created later read the directory. Usage as containerd
// tells it stays what it was for the graft, next to nothing: it is fixed when a
// snapshot is committed.
//
// Of several calls for one chain the later wait for the earlier. A chain that
// holds plain content already is left alone, and that is no error.
func (g *Grafter) Replace(ctx context.Context, chain digest.Digest, fill func(ctx context.Context, dir string) error) (err error) {
	release, err := g.takeAlone(ctx, chain)
	if err != nil {
		return err
	}
	defer release()
	graft, err := g.find(ctx, chain)
	if err != nil || graft.Volume == "" {
		return reason.Wrap(reason.GraftFailed, err)
	}
	where := place{graft.Directory}
	g.claim(where)
	defer g.settled(where)
	if !where.swapped() { // else only the end of an earlier call is missing
		if err := g.fill(ctx, where, fill); err != nil {
			return err
		}
	}
	return reason.Wrap(reason.GraftFailed, g.replace(ctx, graft))
}

// takeAlone waits until no other call may change what is under chain, and leases it.
// release undoes both.
func (g *Grafter) takeAlone(ctx context.Context, chain digest.Digest) (release func(), err error) {
	held, err := g.locks.acquire(ctx, hold{real: []digest.Digest{chain}, alone: true})
	if err != nil {
		return nil, fmt.Errorf("wait for chain %s: %w", chain, err)
	}
	unlock := func() { held.release(func(digest.Digest) {}) }
	unlease, err := g.keep(ctx, chain)
	if err != nil {
		unlock()
		return nil, reason.Wrap(reason.GraftFailed, err)
	}
	return func() { unlease(); unlock() }, nil
}

// keep leases the chain, so that garbage collection leaves it alone until
// release is called, which lets it make up for that.
func (g *Grafter) keep(ctx context.Context, chain digest.Digest) (release func(), err error) {
	ctx = g.context(ctx)
	lease, err := g.newLease(ctx, replaceLeaseLife)
	if err != nil {
		return nil, err
	}
	release = func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), finishTimeout)
		defer cancel()
		if err := g.leases.Delete(ctx, lease, leases.SynchronousDelete); err != nil && !errdefs.IsNotFound(err) {
			g.log.Warn("lease left to expire", zap.String("lease", lease.ID), zap.Error(err))
		}
	}
	if err := g.leases.AddResource(ctx, lease, leases.Resource{ID: chain.String(), Type: g.resources}); err != nil {
		release()
		return nil, fmt.Errorf("lease snapshot %s: %w", chain, err)
	}
	return release, nil
}

// find returns the graft under chain; without a volume where there is plain
// content.
func (g *Grafter) find(ctx context.Context, chain digest.Digest) (Graft, error) {
	info, err := g.snapshots.Stat(g.context(ctx), chain.String())
	if err != nil {
		return Graft{}, fmt.Errorf("stat snapshot %s: %w", chain, err)
	}
	if info.Labels[labelPlaceholder] != "" {
		return Graft{}, fmt.Errorf("chain %s is a placeholder", chain)
	}
	return graftOf(info, labelVolume), nil
}

func (g *Grafter) claim(where place) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.busy[where.dir] = struct{}{}
}

// fill lets the caller make the plain directory, or removes what it made.
func (*Grafter) fill(ctx context.Context, where place, fill func(context.Context, string) error) error {
	if err := where.removePlain(); err != nil { // of an attempt that crashed
		return err
	}
	err := os.Mkdir(where.plain(), 0o700)
	if err == nil {
		err = fill(ctx, where.tree())
	}
	if err != nil {
		return errors.Join(err, where.removePlain())
	}
	return nil
}

// replace exchanges the finished directory for the link and lets containerd's
// metadata follow.
func (g *Grafter) replace(ctx context.Context, graft Graft) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), finishTimeout)
	defer cancel()
	where := place{graft.Directory}
	g.mu.Lock()
	defer g.mu.Unlock()
	if !where.swapped() {
		now, err := g.find(ctx, graft.Chain)
		if err == nil && now != graft {
			err = fmt.Errorf("chain %s changed meanwhile", graft.Chain)
		}
		if err == nil {
			err = where.swap()
		}
		if err != nil && !where.swapped() {
			return errors.Join(err, where.removePlain())
		}
		if err != nil { // it may not be durable: nothing may build on it
			return err
		}
	}
	return g.finish(ctx, graft)
}

// finish follows an exchange, and may follow it again. Its order matters: as long
// as the chain is labelled as a graft the volume is wanted; when it no longer is,
// those who may read the volume still have been written down. g.mu is held.
func (g *Grafter) finish(ctx context.Context, graft Graft) error {
	ctx = g.context(ctx)
	where := place{graft.Directory}
	// Again, because this may be after a crash that came before it.
	if err := errors.Join(syncDir(where.plain()), syncDir(where.dir)); err != nil {
		return fmt.Errorf("finish replacing %s: %w", graft.Chain, err)
	}
	readers, err := g.markAbove(ctx, graft)
	if err == nil {
		err = g.label(ctx, graft.Chain.String(), map[string]string{labelVolume: "", labelMaterialised: graft.Volume})
	}
	if err == nil {
		err = where.tidy()
	}
	if err != nil {
		return fmt.Errorf("finish replacing %s: %w", graft.Chain, err)
	}
	g.log.Info("graft replaced by a plain directory", zap.Stringer("chain", graft.Chain),
		zap.String("volume", graft.Volume), zap.Int("readers", readers))
	return nil
}

// label sets labels of a snapshot, or removes those whose value is empty, at once.
func (g *Grafter) label(ctx context.Context, key string, labels map[string]string) error {
	var fields []string
	for name := range labels {
		fields = append(fields, "labels."+name)
	}
	if _, err := g.snapshots.Update(ctx, snapshots.Info{Name: key, Labels: labels}, fields...); err != nil {
		return fmt.Errorf("label snapshot %s: %w", key, err)
	}
	return nil
}

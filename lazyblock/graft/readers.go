package graft

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"
)

// Wanted returns the volumes that something depends on: a graft, or a container
// that was created before its graft was replaced and reads the volume through
// overlayfs's own clone of the mount, which nobody can see from outside.
func (g *Grafter) Wanted(ctx context.Context) ([]string, error) {
	boot, err := g.bootID()
	if err != nil {
		return nil, err
	}
	g.mu.Lock() // a replacement moves its volume from one label to others
	defer g.mu.Unlock()
	var volumes []string
	err = g.snapshots.Walk(g.context(ctx), func(_ context.Context, info snapshots.Info) error {
		volume := info.Labels[labelVolume]
		if reads, since, _ := strings.Cut(info.Labels[labelReads], "@"); since == boot {
			volume = reads // mounts of an earlier boot are gone
		}
		if volume != "" && !slices.Contains(volumes, volume) {
			volumes = append(volumes, volume)
		}
		return nil
	}, fmt.Sprintf("labels.%q", labelVolume), fmt.Sprintf("labels.%q", labelReads))
	if err != nil {
		return nil, fmt.Errorf("list volumes in use: %w", err)
	}
	return volumes, nil
}

// markAbove labels all that descends from the graft. What is not committed may be
// mounted: called after the exchange it cannot miss one, and those few that came
// since are kept in mind for nothing. What is committed was unpacked over the graft.
// A label of containerd's is the right memory: it is durable and goes with what it
// is about.
func (g *Grafter) markAbove(ctx context.Context, graft Graft) (readers int, err error) {
	boot, err := g.bootID()
	if err != nil {
		return 0, err
	}
	mounted, unpacked, err := g.above(ctx, graft.Chain.String())
	if err == nil {
		err = g.mark(ctx, mounted, labelReads, graft.Volume+"@"+boot)
	}
	if err == nil {
		err = g.mark(ctx, unpacked, labelSuspect, graft.Volume)
	}
	return len(mounted), err
}

func (g *Grafter) mark(ctx context.Context, keys []string, label, value string) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(4) // containerd syncs its database each time; it can batch those that come together
	for _, key := range keys {
		group.Go(func() error {
			err := g.label(ctx, key, map[string]string{label: value})
			if errdefs.IsNotFound(err) {
				return nil // it went
			}
			return err
		})
	}
	return group.Wait()
}

// above returns the snapshots that descend from chain, directly or not: those
// that may be mounted, and those that are committed.
func (g *Grafter) above(ctx context.Context, chain string) (mounted, committed []string, err error) {
	children := make(map[string][]snapshots.Info)
	err = g.snapshots.Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		if info.Parent != "" {
			children[info.Parent] = append(children[info.Parent], info)
		}
		return nil
	})
	if err != nil {
		return nil, nil, fmt.Errorf("list snapshots: %w", err)
	}
	for next := []string{chain}; len(next) > 0; {
		parent := next[0]
		next = next[1:]
		for _, child := range children[parent] {
			if child.Kind == snapshots.KindCommitted {
				committed = append(committed, child.Name)
			} else {
				mounted = append(mounted, child.Name)
			}
			next = append(next, child.Name)
		}
	}
	return mounted, committed, nil
}

// bootID is the kernel's name for the time since it was started.
func bootID() (string, error) {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read boot ID: %w", err)
	}
	return strings.TrimSpace(string(id)), nil
}

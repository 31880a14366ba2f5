package graft

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/google/uuid"
	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"

	"github.com/referee-cri/referee/internal/reason"
)

// Layer is a chain's own layer as containerd has unpacked it.
type Layer struct {
	Dir     string   // its own directory
	Parents []string // those it lies over, the highest first
	Scratch string   // an empty directory beside it
}

// Standing lists what does not hold what containerd unpacked from an image's own
// layers alone: grafts, the suspects that were unpacked over one which has been
// replaced since, and those that were replaced.
func (g *Grafter) Standing(ctx context.Context) (grafts, suspects, materialised []Graft, err error) {
	err = g.snapshots.Walk(g.context(ctx), func(_ context.Context, info snapshots.Info) error {
		switch {
		case info.Labels[labelVolume] != "":
			grafts = append(grafts, graftOf(info, labelVolume))
		case info.Labels[labelSuspect] != "":
			suspects = append(suspects, graftOf(info, labelSuspect))
		default:
			materialised = append(materialised, graftOf(info, labelMaterialised))
		}
		return nil
	}, fmt.Sprintf("labels.%q", labelVolume), fmt.Sprintf("labels.%q", labelSuspect), fmt.Sprintf("labels.%q", labelMaterialised))
	if err != nil {
		return nil, nil, nil, fmt.Errorf("list grafts: %w", err)
	}
	return grafts, suspects, materialised, nil
}

// Clear has mend make a suspect's directory what it should be over those below,
// and forgets the suspicion. Those must be right themselves. Of several calls for
// one chain the later wait for the earlier; what is no suspect is left alone, and
// that is no error. After an error the suspicion stays.
func (g *Grafter) Clear(ctx context.Context, chain digest.Digest, mend func(ctx context.Context, layer Layer) error) error {
	release, err := g.takeAlone(ctx, chain)
	if err != nil {
		return err
	}
	defer release()
	info, err := g.snapshots.Stat(g.context(ctx), chain.String())
	if err != nil {
		return reason.Wrap(reason.GraftFailed, fmt.Errorf("stat snapshot %s: %w", chain, err))
	}
	if info.Labels[labelSuspect] == "" {
		return nil
	}
	layer, err := g.layer(ctx, chain)
	if err != nil {
		return reason.Wrap(reason.GraftFailed, err)
	}
	if err := mendIn(ctx, layer, mend); err != nil {
		return err
	}
	if err := g.label(g.context(ctx), chain.String(), map[string]string{labelSuspect: ""}); err != nil {
		return reason.Wrap(reason.GraftFailed, err)
	}
	g.log.Info("layer mended that was unpacked over a replaced graft", zap.Stringer("chain", chain), zap.String("volume", info.Labels[labelSuspect]))
	return nil
}

// mendIn calls mend with a scratch directory. One that a crash left goes with its
// snapshot, or now.
func mendIn(ctx context.Context, layer Layer, mend func(context.Context, Layer) error) error {
	if err := os.RemoveAll(layer.Scratch); err != nil {
		return fmt.Errorf("remove unfinished scratch directory: %w", err)
	}
	if err := os.Mkdir(layer.Scratch, 0o700); err != nil {
		return fmt.Errorf("make scratch directory: %w", err)
	}
	return errors.Join(mend(ctx, layer), os.RemoveAll(layer.Scratch))
}

// layer asks containerd for the directories under a committed chain with parents,
// by a view of it that lasts no longer than the question: nothing refers to it, so
// garbage collection takes what a crash left.
func (g *Grafter) layer(ctx context.Context, chain digest.Digest) (Layer, error) {
	ctx = g.context(ctx)
	key := "referee-" + uuid.NewString()
	mounts, err := g.snapshots.View(ctx, key, chain.String())
	if err != nil {
		return Layer{}, fmt.Errorf("view snapshot %s: %w", chain, err)
	}
	err = g.snapshots.Remove(context.WithoutCancel(ctx), key)
	if err != nil && !errdefs.IsNotFound(err) {
		return Layer{}, fmt.Errorf("remove view of %s: %w", chain, err)
	}
	return layerOf(mounts)
}

// layerOf reads the directories from the mounts that overlayfs names for a view of
// more than one layer.
func layerOf(mounts []mount.Mount) (Layer, error) {
	if len(mounts) == 1 && mounts[0].Type == "overlay" {
		for _, option := range mounts[0].Options {
			lower, found := strings.CutPrefix(option, "lowerdir=")
			dirs := strings.Split(lower, ":")
			if own, isFS := strings.CutSuffix(dirs[0], "/fs"); found && isFS && len(dirs) > 1 {
				return Layer{Dir: dirs[0], Parents: dirs[1:], Scratch: place{own}.plain()}, nil
			}
		}
	}
	return Layer{}, fmt.Errorf("snapshotter names mounts %v, expected an overlay of several directories", mounts)
}

package graft

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/moby/sys/mountinfo"
	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"
)

// Graft is a chain that stands on a volume.
type Graft struct {
	Chain     digest.Digest
	Volume    string
	Directory string // the snapshot's directory
}

// Grafts lists what containerd's metadata knows of ours.
func (g *Grafter) Grafts(ctx context.Context) ([]Graft, error) { return g.list(ctx, labelVolume) }

// list returns the snapshots with that label, whose value is a volume.
func (g *Grafter) list(ctx context.Context, label string) ([]Graft, error) {
	var grafts []Graft
	err := g.snapshots.Walk(g.context(ctx), func(_ context.Context, info snapshots.Info) error {
		grafts = append(grafts, graftOf(info, label))
		return nil
	}, fmt.Sprintf("labels.%q", label))
	if err != nil {
		return nil, fmt.Errorf("list grafts: %w", err)
	}
	return grafts, nil
}

func graftOf(info snapshots.Info, label string) Graft {
	return Graft{Chain: digest.Digest(info.Name), Volume: info.Labels[label], Directory: info.Labels[labelDirectory]}
}

// Reconcile makes the snapshots' directories what containerd's metadata says. A
// graft whose volume is mounted gets its bind, a replacement that was interrupted
// is finished or forgotten, a bind whose snapshot is gone is taken away together
// with what containerd could not remove of its directory. mounted tells whether a
// volume is mounted now.
func (g *Grafter) Reconcile(ctx context.Context, mounted func(volume string) bool) error {
	if g.Root() == "" { // after a restart only containerd can tell where leftovers are
		if err := g.Check(ctx); err != nil {
			return err
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	grafts, err := g.Grafts(ctx)
	if err != nil {
		return err
	}
	replaced, err := g.list(ctx, labelMaterialised)
	if err != nil {
		return err
	}
	var errs []error
	for _, graft := range grafts {
		errs = append(errs, g.mend(ctx, graft, mounted(graft.Volume)))
	}
	for _, graft := range replaced {
		errs = append(errs, place{graft.Directory}.tidy())
	}
	return errors.Join(append(errs, g.releaseBinds(append(grafts, replaced...)))...)
}

// mend brings one graft's directory in order.
func (g *Grafter) mend(ctx context.Context, graft Graft, mounted bool) error {
	where := place{graft.Directory}
	if _, busy := g.busy[where.dir]; !busy {
		if where.swapped() {
			return g.finish(ctx, graft)
		}
		if err := where.removePlain(); err != nil {
			return err
		}
	}
	if !mounted {
		return nil
	}
	return g.rebind(graft)
}

// releaseBinds clears the directories with a bind of which containerd does not
// know as one of snapshots.
func (g *Grafter) releaseBinds(snapshots []Graft) error {
	known := make(map[string]bool, len(snapshots))
	for _, graft := range snapshots {
		known[graft.Directory] = true
	}
	binds, err := g.binds(snapshots)
	if err != nil {
		return err
	}
	var errs []error
	for _, dir := range binds {
		if _, busy := g.busy[dir]; busy || known[dir] {
			continue
		}
		g.log.Info("graft is gone from containerd: releasing its bind", zap.String("dir", dir))
		errs = append(errs, place{dir}.clear())
	}
	return errors.Join(errs...)
}

// rebind binds the graft's volume again unless the bind shows it already.
func (g *Grafter) rebind(graft Graft) error {
	where := place{graft.Directory}
	volumeDir := filepath.Join(g.volumes, graft.Volume)
	if !where.isGraft() {
		return fmt.Errorf("graft of %s: %s is not our link: left alone", graft.Chain, where.fs())
	}
	if where.shows(volumeDir) {
		return nil
	}
	if err := where.unmount(); err != nil {
		return err
	}
	if err := where.mountVolume(volumeDir); err != nil {
		return err
	}
	g.log.Info("graft bound again", zap.Stringer("chain", graft.Chain), zap.String("volume", graft.Volume))
	return nil
}

// binds returns the snapshot directories that a bind of ours is mounted in.
func (g *Grafter) binds(grafts []Graft) ([]string, error) {
	roots := make(map[string]bool)
	if g.root != "" {
		roots[g.root] = true
	}
	for _, graft := range grafts {
		roots[filepath.Dir(graft.Directory)] = true
	}
	mounts, err := mountinfo.GetMounts(func(info *mountinfo.Info) (skip, stop bool) {
		dir, name := filepath.Split(info.Mountpoint)
		dir = strings.TrimSuffix(dir, "/")
		return name != bindName || !roots[filepath.Dir(dir)], false
	})
	if err != nil {
		return nil, fmt.Errorf("list binds: %w", err)
	}
	var dirs []string
	for _, info := range mounts {
		dirs = append(dirs, filepath.Dir(info.Mountpoint))
	}
	return dirs, nil
}

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
func (g *Grafter) Grafts(ctx context.Context) ([]Graft, error) {
	var grafts []Graft
	err := g.snapshots.Walk(g.context(ctx), func(_ context.Context, info snapshots.Info) error {
		grafts = append(grafts, Graft{
			Chain:     digest.Digest(info.Name),
			Volume:    info.Labels[labelVolume],
			Directory: info.Labels[labelDirectory],
		})
		return nil
	}, fmt.Sprintf("labels.%q", labelVolume))
	if err != nil {
		return nil, fmt.Errorf("list grafts: %w", err)
	}
	return grafts, nil
}

// Reconcile makes the binds what containerd's metadata says. A graft whose
// volume is mounted gets its bind, a bind whose snapshot is gone is taken away
// together with what containerd could not remove of its directory. mounted tells
// whether a volume is mounted now. It returns the grafts that there are.
func (g *Grafter) Reconcile(ctx context.Context, mounted func(volume string) bool) ([]Graft, error) {
	if g.Root() == "" { // after a restart only containerd can tell where leftovers are
		if err := g.Check(ctx); err != nil {
			return nil, err
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	grafts, err := g.Grafts(ctx)
	if err != nil {
		return nil, err
	}
	known := make(map[string]bool, len(grafts))
	var errs []error
	for _, graft := range grafts {
		known[graft.Directory] = true
		if mounted(graft.Volume) {
			errs = append(errs, g.rebind(graft))
		}
	}
	binds, err := g.binds(grafts)
	if err != nil {
		return nil, errors.Join(append(errs, err)...)
	}
	for _, dir := range binds {
		if _, fresh := g.fresh[dir]; fresh || known[dir] {
			continue
		}
		g.log.Info("graft is gone from containerd: releasing its bind", zap.String("dir", dir))
		errs = append(errs, place{dir}.clear())
	}
	return grafts, errors.Join(errs...)
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

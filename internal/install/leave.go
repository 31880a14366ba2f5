package install

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
)

// Leave is the way back: what of the record still stands on a node, and what is
// to be done with it.
type Leave struct {
	Steps []Step
	Notes []string

	tree   tree
	record *record
}

// Step takes one change back.
type Step struct {
	Path string
	What string
	// Now is what stands there, Then what is to.
	Now, Then State

	stage stage
}

// NewLeave compares the node with the record. Without one there is nothing to
// do: Installed is false then.
func NewLeave(root string) (*Leave, error) {
	t, err := absolute(root)
	if err != nil {
		return nil, err
	}
	l := &Leave{tree: t}
	if l.record, err = t.readRecord(); err != nil || l.record == nil {
		return l, err
	}
	for _, c := range slices.Backward(l.record.Changes) {
		if err := l.step(c); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// Installed tells whether there is a record of anything.
func (l *Leave) Installed() bool { return l.record != nil }

func (l *Leave) note(format string, args ...any) {
	l.Notes = append(l.Notes, fmt.Sprintf(format, args...))
}

func (l *Leave) step(c recorded) error {
	now, err := l.tree.look(c.Path)
	if err != nil {
		return err
	}
	step := Step{Path: c.Path, What: c.What, Now: now, stage: daemon}
	if c.Setting != nil || isTraffic(c.Path) {
		step.stage = traffic
	}
	switch {
	case c.Before.is(now):
		return nil // was never made, or is gone already
	case c.After.is(now) || now.Kind == Directory && c.After.Kind == Directory:
		if step.Then, err = l.tree.restored(c.Before); err != nil {
			return fmt.Errorf("take back %s: %w", c.Path, err)
		}
	case c.Setting != nil && now.Kind == File:
		step.Then = now
		if step.Then.Data, err = c.Setting.unset(now.Data); err != nil {
			return fmt.Errorf("take %s back from %s, which was edited since: %w; do it yourself, then try again", c.Setting.Key, c.Path, err)
		}
		if step.Then.Equal(now) {
			l.note("left %s: its %s is no longer what was put there", c.Path, c.Setting.Key)
			return nil
		}
		l.note("%s was edited since: only %s goes back", c.Path, c.Setting.Key)
	case now.Kind == Absent:
		l.note("%s was removed by somebody: it stays away", c.Path)
		return nil
	default:
		l.note("left %s: it was edited since", c.Path)
		return nil
	}
	l.Steps = append(l.Steps, step)
	return nil
}

// isTraffic tells whether a file of ours sends anybody to the daemon.
func isTraffic(path string) bool {
	return path == crictlFile || filepath.Base(path) == dropInName
}

// Apply takes the steps: nobody is sent to the daemon any more, then it is
// stopped, then the rest goes. A step that fails stops it; what is left can be
// taken again.
func (l *Leave) Apply(ctx context.Context, services Services) error {
	if !l.Installed() {
		return nil
	}
	if err := l.take(func(s Step) bool { return s.stage == traffic }); err != nil {
		return err
	}
	if slices.ContainsFunc(l.Steps, func(s Step) bool { return s.stage == traffic }) {
		if err := services.RestartRunning(ctx, kubeletUnit); err != nil {
			return err
		}
	}
	for _, unit := range []string{socketUnit, serviceUnit} {
		if err := services.Stop(ctx, unit); err != nil {
			return err
		}
	}
	files := func(s Step) bool { return s.stage == daemon && s.Now.Kind != Directory }
	if err := l.take(files); err != nil {
		return err
	}
	if err := l.tree.forget(); err != nil {
		return err
	}
	if err := l.take(func(s Step) bool { return s.Now.Kind == Directory }); err != nil {
		return err
	}
	return services.Reload(ctx)
}

func (l *Leave) take(which func(Step) bool) error {
	for _, step := range l.Steps {
		if which(step) {
			if err := l.tree.put(step.Path, step.Then); err != nil {
				return err
			}
		}
	}
	return nil
}

// Purge removes data directories of the daemon, which must not run. A mount
// below one of them is an error, and nothing is removed then.
func Purge(root string, dirs ...string) error {
	t, err := absolute(root)
	if err != nil {
		return err
	}
	var full []string
	for _, dir := range dirs {
		resolved, err := t.resolve(dir)
		if err != nil {
			return err
		}
		if resolved == "/" {
			return errors.New("purge: the whole file system is not the daemon's")
		}
		at, err := t.at(resolved)
		if err != nil {
			return err
		}
		full = append(full, at)
	}
	mounts, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		return !slices.ContainsFunc(full, func(dir string) bool {
			return m.Mountpoint == dir || strings.HasPrefix(m.Mountpoint, dir+"/")
		}), false
	})
	if err != nil {
		return fmt.Errorf("purge: %w", err)
	}
	if len(mounts) > 0 {
		return fmt.Errorf("purge: %s is still mounted", mounts[0].Mountpoint)
	}
	var errs []error
	for _, dir := range full {
		errs = append(errs, os.RemoveAll(dir))
	}
	return errors.Join(errs...)
}

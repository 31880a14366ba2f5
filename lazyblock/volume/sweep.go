package volume

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"
)

// Idle is a look at the recorded volumes that nobody pins.
type Idle struct {
	pinned map[string]uint64
}

// Idle looks which volumes nobody pins. Take it before asking who wants them.
func (m *Manager) Idle() (Idle, error) {
	specs, err := m.records.list()
	if err != nil {
		return Idle{}, err
	}
	idle := Idle{pinned: make(map[string]uint64)}
	m.mu.Lock()
	defer m.mu.Unlock()
	for id := range specs {
		if e := m.volumes[id]; e == nil {
			idle.pinned[id] = 0
		} else if e.pins == 0 {
			idle.pinned[id] = e.pinned
		}
	}
	return idle, nil
}

// Sweep detaches and forgets the idle volumes that are not in keep and were not
// pinned since the look, and frees the cached blobs that no other volume uses.
func (m *Manager) Sweep(ctx context.Context, idle Idle, keep map[string]bool) error {
	specs, err := m.records.list()
	if err != nil {
		return err
	}
	gone := make(map[string]Spec)
	for id, spec := range specs {
		if pinned, isIdle := idle.pinned[id]; isIdle && !keep[id] && m.untouched(id, pinned) {
			gone[id] = spec
			delete(specs, id)
		}
	}
	used := usedBy(specs)
	var errs []error
	for id, spec := range gone {
		errs = append(errs, m.forget(ctx, id, spec, used))
	}
	return errors.Join(errs...)
}

// usedBy are the layers of all these volumes.
func usedBy(specs map[string]Spec) map[digest.Digest]bool {
	used := make(map[digest.Digest]bool)
	for _, spec := range specs {
		for _, layer := range spec.Layers {
			used[layer.Digest] = true
		}
	}
	return used
}

func (m *Manager) forget(ctx context.Context, id string, spec Spec, used map[digest.Digest]bool) error {
	e := m.pin(id)
	defer m.unpin(e)
	if err := e.lock(ctx); err != nil {
		return err
	}
	defer e.unlock()
	m.mu.Lock()
	pinned := e.pins > 1
	m.mu.Unlock()
	if pinned {
		return nil // somebody wants it after all
	}
	err := m.detach(id)
	if e.opened != nil {
		err = errors.Join(err, e.opened.close())
		m.set(e, nil)
	}
	if err != nil {
		return fmt.Errorf("forget volume %s: %w", id, err)
	}
	for _, layer := range spec.Layers {
		if !used[layer.Digest] {
			err = errors.Join(err, m.blobs.Remove(layer.Digest))
		}
	}
	m.log.Info("volume released", zap.String("volume", id), zap.String("ref", spec.Reference))
	return errors.Join(err, m.records.remove(id))
}

func (m *Manager) untouched(id string, pinned uint64) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.volumes[id]
	return e == nil || e.pins == 0 && e.pinned == pinned
}

func ignoreMissing(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

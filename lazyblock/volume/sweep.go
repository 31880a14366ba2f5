package volume

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"

	"github.com/referee-cri/referee/internal/registry"
)

// Idle is a look at the volumes that nobody pins.
type Idle struct {
	pinned map[string]uint64 // Manager.pins when each was last pinned; 0: it is neither pinned nor mounted
}

// Idle looks which volumes nobody pins: those on record, and what a crash left
// mounted without a record. Take it before asking who wants them.
func (m *Manager) Idle() (Idle, error) {
	ids, err := m.records.ids()
	if err != nil {
		return Idle{}, err
	}
	mounts, err := os.ReadDir(m.mounts)
	if err != nil {
		return Idle{}, fmt.Errorf("list volumes: %w", err)
	}
	for _, mount := range mounts {
		ids = append(ids, mount.Name())
	}
	idle := Idle{pinned: make(map[string]uint64)}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, id := range ids {
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
	var errs []error
	var forgotten []Spec
	for id, pinned := range idle.pinned {
		if keep[id] || !m.untouched(id, pinned) {
			continue
		}
		spec, err := m.forget(ctx, id)
		forgotten, errs = append(forgotten, spec), append(errs, err)
	}
	m.free(forgotten...) // once all are closed: they may share some
	return errors.Join(errs...)
}

// forget takes a volume away unless somebody pinned it meanwhile, and returns
// whose layers are not needed any more, without layers if there are none.
func (m *Manager) forget(ctx context.Context, id string) (Spec, error) {
	e := m.pin(id)
	defer m.unpin(e)
	if err := e.lock(ctx); err != nil {
		return Spec{}, fmt.Errorf("forget volume %s: %w", id, err)
	}
	defer e.unlock()
	m.mu.Lock()
	pinned := e.pins > 1
	m.mu.Unlock()
	if pinned {
		return Spec{}, nil // somebody wants it after all
	}
	spec, _ := m.records.read(id) // unreadable: its layers are unknown and stay until the cache needs room
	err := m.detach(id)
	if e.opened != nil {
		err = errors.Join(err, e.opened.close())
		m.set(e, nil)
	}
	if err == nil {
		err = m.unsettle(id)
	}
	if err == nil {
		err = m.records.remove(id)
	}
	if err != nil {
		return Spec{}, fmt.Errorf("forget volume %s: %w", id, err)
	}
	m.log.Info("volume released", zap.String("volume", id), zap.String("ref", spec.Reference))
	return spec, nil
}

// free drops from the cache those of the volumes' layers that no volume on record
// needs, as settled ones do not, and that are not open. What stays is dropped when the cache needs the room.
func (m *Manager) free(forgotten ...Spec) {
	specs, err := m.records.list()
	if err != nil {
		m.log.Debug("unused layers stay cached", zap.Error(err))
		return
	}
	type held struct { // by the cache
		registry string
		layer    digest.Digest
	}
	needed := make(map[held]bool)
	for id, spec := range specs {
		if m.Settled(id) {
			continue
		}
		for _, layer := range spec.Blobs() {
			needed[held{registry.HostOf(spec.Repository), layer.Digest}] = true
		}
	}
	for _, spec := range forgotten {
		for _, layer := range spec.Blobs() {
			if needed[held{registry.HostOf(spec.Repository), layer.Digest}] {
				continue
			}
			if err := m.blobs.Remove(spec.Repository, layer.Digest); err != nil {
				m.log.Debug("unused layer stays cached", zap.Stringer("digest", layer.Digest), zap.Error(err))
			}
		}
	}
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

package volume

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/referee-cri/referee/internal/registry"
)

// List returns what is on record, by ID. What cannot be read is left out.
func (m *Manager) List() (map[string]Spec, error) { return m.records.list() }

// Recorded returns what is on record of a volume.
func (m *Manager) Recorded(id string) (Spec, error) { return m.records.read(id) }

// Vouch adds a repository to those that vouch for the volume on record, durably.
// A word that is not nil replaces the one on record.
func (m *Manager) Vouch(ctx context.Context, id, repository string, word json.RawMessage) error {
	e := m.pin(id)
	defer m.unpin(e)
	if err := e.lock(ctx); err != nil {
		return fmt.Errorf("wait for volume %s: %w", id, err)
	}
	defer e.unlock()
	spec, err := m.records.read(id)
	if err != nil {
		return fmt.Errorf("vouch for volume %s: %w", id, err)
	}
	if registry.HostOf(repository) != registry.HostOf(spec.Repository) {
		return fmt.Errorf("vouch for volume %s of %s: %s is of another registry", id, spec.Repository, repository)
	}
	known := repository == spec.Repository || slices.Contains(spec.Vouchers, repository)
	if known && word == nil {
		return nil
	}
	if !known {
		spec.Vouchers = append(spec.Vouchers, repository)
	}
	if word != nil {
		spec.Word = word
	}
	if err := spec.check(); err != nil {
		return fmt.Errorf("vouch for volume %s: %w", id, err)
	}
	if err := m.records.write(id, spec); err != nil || known || e.opened == nil {
		return err
	}
	return e.opened.renew(repository, registry.Credentials{}) // it holds the blobs as well
}

// check refuses what should not grow a record, or would break it.
func (s Spec) check() error {
	switch {
	case len(s.Word) > MaxWord:
		return fmt.Errorf("word has %d bytes, more than %d", len(s.Word), MaxWord)
	case s.Word != nil && !json.Valid(s.Word):
		return fmt.Errorf("word is not JSON")
	case len(s.Vouchers) > maxVouchers:
		return fmt.Errorf("%d repositories vouch for it, more than %d", len(s.Vouchers), maxVouchers)
	}
	return nil
}

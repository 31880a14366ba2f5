package install

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
)

// Where a node keeps what was done to it.
const (
	recordFile = "/var/lib/referee/install.json"
	backupDir  = "/var/lib/referee/install" // what was replaced, named by its digest
)

const recordVersion = 1

// record is what was done to a node, and how to undo it. It is written before
// anything else is, so that whatever a crash leaves can be undone.
type record struct {
	Version int        `json:"version"`
	Referee string     `json:"referee"` // the version that wrote it
	Time    time.Time  `json:"time"`
	Changes []recorded `json:"changes"` // in the order in which they were made
}

type recorded struct {
	Path    string     `json:"path"`
	What    string     `json:"what"`
	Before  remembered `json:"before"`
	After   remembered `json:"after"`
	Setting *Setting   `json:"setting,omitempty"`
}

// remembered is a State by its digest.
type remembered struct {
	Kind   Kind          `json:"kind,omitempty"`
	Mode   fs.FileMode   `json:"mode,omitempty"`
	UID    int           `json:"uid,omitempty"`
	GID    int           `json:"gid,omitempty"`
	Digest digest.Digest `json:"digest,omitempty"` // of a file
	Target string        `json:"target,omitempty"` // of a link
}

func remember(s State) remembered {
	r := remembered{Kind: s.Kind, Mode: s.Mode, UID: s.UID, GID: s.GID}
	switch s.Kind {
	case File:
		r.Digest = digest.FromBytes(s.Data)
	case Link:
		r.Mode, r.Target = 0, string(s.Data)
	}
	return r
}

// is tells whether s is what was remembered, but for who owns it.
func (r remembered) is(s State) bool {
	other := remember(s)
	other.UID, other.GID = r.UID, r.GID
	return r == other
}

func backupOf(d digest.Digest) string { return path.Join(backupDir, d.Encoded()) }

// readRecord returns nil where nothing was done.
func (t tree) readRecord() (*record, error) {
	text, err := t.read(recordFile)
	if err != nil || text == nil {
		return nil, err
	}
	r := &record{}
	if err := json.Unmarshal(text, r); err != nil {
		return nil, fmt.Errorf("read %s: %w", recordFile, err)
	}
	if r.Version != recordVersion {
		return nil, fmt.Errorf("read %s: it has version %d, this Referee knows version %d", recordFile, r.Version, recordVersion)
	}
	for i := range r.Changes {
		if d := r.Changes[i].Before.Digest; d != "" && d.Validate() != nil {
			return nil, fmt.Errorf("read %s: %q is no digest", recordFile, d)
		}
	}
	return r, nil
}

func (r *record) find(file string) *recorded {
	if r == nil {
		return nil
	}
	i := slices.IndexFunc(r.Changes, func(c recorded) bool { return c.Path == file })
	if i < 0 {
		return nil
	}
	return &r.Changes[i]
}

// made tells whether an earlier run left file as it is now.
func (r *record) made(file string, now State) bool {
	c := r.find(file)
	return c != nil && c.After.is(now)
}

// before is what stood at a path when Referee came.
func (r *record) before(t tree, file string) (State, error) {
	c := r.find(file)
	if c == nil {
		return State{}, fmt.Errorf("%s is not in %s: %w", file, recordFile, fs.ErrNotExist)
	}
	return t.restored(c.Before)
}

// restored is the state that was remembered, with a file's content.
func (t tree) restored(r remembered) (State, error) {
	s := State{Kind: r.Kind, Mode: r.Mode, UID: r.UID, GID: r.GID}
	switch r.Kind {
	case Link:
		s.Data = []byte(r.Target)
	case File:
		backup, err := t.look(backupOf(r.Digest))
		if err != nil {
			return s, err
		}
		if backup.Kind != File || digest.FromBytes(backup.Data) != r.Digest {
			return s, fmt.Errorf("%s is not what was kept there", backupOf(r.Digest))
		}
		s.Data = backup.Data
	}
	return s, nil
}

// with is the record after changes, and r still what it was.
func (r *record) with(changes []Change, version string, now time.Time) *record {
	next := &record{Version: recordVersion, Referee: version, Time: now.UTC().Truncate(time.Second)}
	if r != nil {
		next.Changes = slices.Clone(r.Changes)
	}
	for _, c := range changes {
		entry := recorded{Path: c.Path, What: c.What, Before: remember(c.found), After: remember(c.After), Setting: c.Setting}
		if old := next.find(c.Path); old != nil {
			*old = entry
		} else {
			next.Changes = append(next.Changes, entry)
		}
	}
	return next
}

// writeRecord keeps r, with a copy of every file that changes replace.
func (t tree) writeRecord(r *record, changes []Change) error {
	for _, c := range changes {
		if c.found.Kind != File {
			continue
		}
		backup := State{Kind: File, Mode: 0o600, Data: c.found.Data}
		if err := t.put(backupOf(digest.FromBytes(c.found.Data)), backup); err != nil {
			return err
		}
	}
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("write %s: %w", recordFile, err)
	}
	return t.put(recordFile, State{Kind: File, Mode: 0o600, Data: append(data, '\n')})
}

// forget removes the record and the copies, also those of former records.
func (t tree) forget() error {
	var errs []error
	for _, backup := range t.glob(path.Join(backupDir, "*")) {
		errs = append(errs, t.put(backup, State{}))
	}
	return errors.Join(append(errs, t.put(recordFile, State{}))...)
}

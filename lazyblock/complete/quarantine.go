package complete

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"

	"github.com/referee-cri/referee/internal/atomicfile"
	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/internal/registry"
	"github.com/referee-cri/referee/lazyblock/volume"
)

// Quarantine is a volume that was served other bytes than its digests say.
type Quarantine struct {
	Volume     string        `json:"volume"`
	Reference  string        `json:"reference"`  // the image it was first attached for
	Repository string        `json:"repository"` // that served the bytes
	Chain      digest.Digest `json:"chain"`      // that stood on them
	Artifact   digest.Digest `json:"artifact"`
	Blob       digest.Digest `json:"blob"` // that has another content
	Time       time.Time     `json:"time"`
	Replaced   *time.Time    `json:"replaced,omitempty"` // when nothing stood on the volume any more
}

// quarantine is the durable records, also kept in memory.
type quarantine struct {
	root string
	wake chan struct{} // capacity 1: there is something to replace

	mu      sync.Mutex
	records map[string]Quarantine // by volume
}

const quarantineSuffix = ".json"

func quarantineDir(root string) string { return filepath.Join(root, "quarantine") }

func quarantinePath(root, id string) string {
	return filepath.Join(quarantineDir(root), id+quarantineSuffix)
}

// ReadQuarantine returns the record of a volume, nil where it is in no quarantine.
// It may be called by another process than the daemon.
func ReadQuarantine(root, id string) (*Quarantine, error) {
	q, err := readJSON[Quarantine](quarantinePath(root, id))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	return q, err
}

// openQuarantine reads the records. One that cannot be read is told of and left.
func openQuarantine(root string, log *zap.Logger) (*quarantine, error) {
	dir, q := quarantineDir(root), &quarantine{root: root, wake: make(chan struct{}, 1), records: make(map[string]Quarantine)}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make quarantine: %w", err)
	}
	if err := atomicfile.RemoveUnfinished(dir); err != nil {
		return nil, fmt.Errorf("clean quarantine: %w", err)
	}
	names, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list quarantine: %w", err)
	}
	for _, name := range names {
		id, isRecord := strings.CutSuffix(name.Name(), quarantineSuffix)
		if !isRecord {
			continue
		}
		record, err := ReadQuarantine(root, id)
		if err != nil || record == nil || record.Volume != id {
			log.Error("skipping a quarantine record that cannot be read", zap.String("file", name.Name()), zap.Error(err))
			continue
		}
		q.records[id] = *record
	}
	return q, nil
}

func (q *quarantine) add(record Quarantine) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if err := writeJSON(quarantinePath(q.root, record.Volume), record); err != nil {
		return fmt.Errorf("quarantine volume %s: %w", record.Volume, err)
	}
	q.records[record.Volume] = record
	select {
	case q.wake <- struct{}{}:
	default:
	}
	return nil
}

// count returns how many volumes there are, and how many are not replaced.
func (q *quarantine) count() (all, unreplaced int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, record := range q.records {
		if record.Replaced == nil {
			unreplaced++
		}
	}
	return len(q.records), unreplaced
}

func (q *quarantine) holds(volume string) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	_, is := q.records[volume]
	return is
}

// condemns reports whether the registry of repository served a blob wrong.
func (q *quarantine) condemns(repository string, blob digest.Digest) bool {
	_, is := q.of(repository, blob)
	return is
}

// of returns a record of a blob that the registry of repository served wrong.
func (q *quarantine) of(repository string, blob digest.Digest) (record Quarantine, is bool) {
	host := registry.HostOf(repository)
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, record := range q.records {
		if record.Blob == blob && registry.HostOf(record.Repository) == host {
			return record, true
		}
	}
	return Quarantine{}, false
}

// unreplaced lists the records of volumes that something may still stand on.
func (q *quarantine) unreplaced() []Quarantine {
	q.mu.Lock()
	defer q.mu.Unlock()
	var list []Quarantine
	for _, record := range q.records {
		if record.Replaced == nil {
			list = append(list, record)
		}
	}
	return list
}

// Quarantined reports whether a volume is in quarantine.
func (c *Companion) Quarantined(volume string) bool { return c.quarantine.holds(volume) }

// Refuse returns an error with reason.Quarantined if spec needs a blob that its
// registry served wrong.
func (c *Companion) Refuse(spec volume.Spec) error {
	for _, layer := range spec.Blobs() {
		if record, is := c.quarantine.of(spec.Repository, layer.Digest); is {
			return reason.Errorf(reason.Quarantined, "blob %s of the form had another content when %s served it on %s",
				record.Blob, record.Repository, record.Time.Format(time.DateTime+" MST"))
		}
	}
	return nil
}

// replace has the original content put in the place of what is in quarantine.
func (c *Companion) replace(ctx context.Context) {
	if c.opts.Replace == nil {
		return
	}
	backoff := minPause
	for {
		left := false
		for _, record := range c.quarantine.unreplaced() {
			err := c.opts.Replace(ctx, record)
			if err == nil {
				now := time.Now().UTC()
				record.Replaced = &now
				err = c.quarantine.add(record)
			}
			if err != nil && ctx.Err() == nil {
				left = true
				c.log.Error("a quarantined form still stands for an image", zap.String("ref", record.Reference),
					zap.Stringer("chain", record.Chain), zap.Duration("retry", backoff), zap.Error(err))
			}
		}
		var again <-chan time.Time
		if left {
			again, backoff = time.After(backoff), min(2*backoff, maxPause)
		} else {
			backoff = minPause
		}
		select {
		case <-ctx.Done():
			return
		case <-again:
		case <-c.quarantine.wake:
		}
	}
}

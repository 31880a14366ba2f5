package trace

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/opencontainers/go-digest"

	"github.com/referee-cri/referee/internal/atomicfile"
	"github.com/referee-cri/referee/internal/registry"
)

// maxTraces bounds how many are kept. The oldest go first.
const maxTraces = 1024

// ErrNone says that there is no trace of an artifact.
var ErrNone = errors.New("no trace")

// Store keeps the traces of a node. It is safe for concurrent use.
type Store struct {
	dir  string
	most int        // traces kept
	mu   sync.Mutex // held while a file is changed
}

// OpenStore returns the store in dir and makes that.
func OpenStore(dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make trace directory: %w", err)
	}
	if err := atomicfile.RemoveUnfinished(dir); err != nil {
		return nil, fmt.Errorf("clean traces: %w", err)
	}
	return &Store{dir: dir, most: maxTraces}, nil
}

// ReadStore returns the store in dir for reading, beside a daemon.
func ReadStore(dir string) *Store { return &Store{dir: dir} }

// Get returns the trace of an artifact as the registry of repository serves it,
// or ErrNone.
func (s *Store) Get(repository string, artifact digest.Digest) (*Trace, error) {
	t, err := ReadFile(s.path(repository, artifact))
	if errors.Is(err, os.ErrNotExist) {
		return nil, ErrNone
	}
	if err == nil && t.Artifact != artifact {
		err = fmt.Errorf("read trace: it is of %s, want %s", t.Artifact, artifact)
	}
	return t, err
}

// ReadFile reads a trace from a file, bounded as Decode is.
func ReadFile(path string) (*Trace, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read trace: %w", err)
	}
	data, err := io.ReadAll(io.LimitReader(file, MaxBytes+1))
	if err = errors.Join(err, file.Close()); err != nil {
		return nil, fmt.Errorf("read trace: %w", err)
	}
	return Decode(data)
}

// Update has change work on the trace of an artifact, an empty one where there is
// none or it cannot be read, and keeps the outcome.
func (s *Store) Update(repository string, artifact digest.Digest, change func(*Trace)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, err := s.Get(repository, artifact)
	if err != nil {
		t = &Trace{Version: Version, Artifact: artifact}
	}
	change(t)
	if err := t.check(); err != nil {
		return fmt.Errorf("write trace of %s: %w", artifact, err)
	}
	data, err := json.Marshal(t)
	if err != nil {
		return fmt.Errorf("write trace of %s: %w", artifact, err)
	}
	if err := atomicfile.Write(s.path(repository, artifact), data, 0o600); err != nil {
		return fmt.Errorf("write trace of %s: %w", artifact, err)
	}
	return s.trim()
}

// path is one file for an artifact and registry: what one registry serves under a
// digest says nothing about what another does.
func (s *Store) path(repository string, artifact digest.Digest) string {
	sum := sha256.Sum256([]byte(registry.HostOf(repository) + " " + artifact.String()))
	return filepath.Join(s.dir, hex.EncodeToString(sum[:16])+".json")
}

// trim removes the oldest traces where there are too many.
func (s *Store) trim() error {
	files, err := os.ReadDir(s.dir)
	if err != nil || len(files) <= s.most {
		return err
	}
	type aged struct {
		name string
		at   int64
	}
	var all []aged
	for _, file := range files {
		if info, err := file.Info(); err == nil {
			all = append(all, aged{file.Name(), info.ModTime().UnixNano()})
		}
	}
	slices.SortFunc(all, func(a, b aged) int { return cmp.Compare(a.at, b.at) })
	var errs []error
	for _, old := range all[:max(len(all)-s.most, 0)] {
		errs = append(errs, os.Remove(filepath.Join(s.dir, old.name)))
	}
	return errors.Join(errs...)
}

package complete

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/referee-cri/referee/internal/atomicfile"
	"github.com/referee-cri/referee/lazyblock/volume"
)

// State is how far a volume is.
type State struct {
	Size    int64     `json:"size"`   // bytes of all blobs
	Cached  int64     `json:"cached"` // of them on disk
	Blobs   int       `json:"blobs"`
	Sealed  int       `json:"sealed"`            // blobs that are whole and have their digest
	Settled bool      `json:"settled"`           // its devices are local files as well
	Waiting string    `json:"waiting,omitempty"` // why it goes no further now
	Time    time.Time `json:"time"`
}

// Whole reports whether the volume needs its registry no more.
func (s *State) Whole() bool { return s.Sealed == s.Blobs }

func statePath(root, id string) string {
	return filepath.Join(root, "volumes", id+volume.CompletionSuffix)
}

// ReadState returns what was last noted about a volume, nil where nothing was. It
// may be called by another process than the daemon.
func ReadState(root, id string) (*State, error) {
	state, err := readJSON[State](statePath(root, id))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	return state, err
}

func readJSON[T any](path string) (*T, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read completion: %w", err)
	}
	v := new(T)
	if err := json.Unmarshal(data, v); err != nil {
		return nil, fmt.Errorf("read completion %s: %w", path, err)
	}
	return v, nil
}

func writeJSON(path string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("encode completion: %w", err)
	}
	if err := atomicfile.Write(path, append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("write completion: %w", err)
	}
	return nil
}

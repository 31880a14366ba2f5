package volume

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/referee-cri/referee/internal/atomicfile"
)

// records are the durable specs, one JSON file a volume.
type records struct{ dir string }

const recordSuffix = ".json"

// CompletionSuffix is that of the file beside a volume's record in which package
// complete notes how much of it is here. It goes with the record.
const CompletionSuffix = ".completion"

func (r records) path(id string) string { return filepath.Join(r.dir, id+recordSuffix) }

func (r records) write(id string, spec Spec) error {
	data, err := json.MarshalIndent(spec, "", "  ")
	if err != nil {
		return fmt.Errorf("encode volume record: %w", err)
	}
	if err := atomicfile.Write(r.path(id), data, 0o600); err != nil {
		return fmt.Errorf("write volume record: %w", err)
	}
	return nil
}

// read returns the spec of id. A record whose content does not lead to its own
// name is refused: it would open something else.
func (r records) read(id string) (Spec, error) {
	data, err := os.ReadFile(r.path(id))
	if err != nil {
		return Spec{}, fmt.Errorf("read volume record: %w", err)
	}
	var spec Spec
	if err := json.Unmarshal(data, &spec); err != nil {
		return Spec{}, fmt.Errorf("read volume record %s: %w", r.path(id), err)
	}
	if got := spec.ID(); got != id {
		return Spec{}, fmt.Errorf("read volume record %s: it describes volume %s", r.path(id), got)
	}
	if spec.Word != nil { // was indented with the rest
		var compact bytes.Buffer
		if err := json.Compact(&compact, spec.Word); err != nil {
			return Spec{}, fmt.Errorf("read volume record %s: %w", r.path(id), err)
		}
		spec.Word = compact.Bytes()
	}
	return spec, nil
}

// ids are those of all records, readable or not.
func (r records) ids() ([]string, error) {
	names, err := os.ReadDir(r.dir)
	if err != nil {
		return nil, fmt.Errorf("list volume records: %w", err)
	}
	var ids []string
	for _, name := range names {
		if id, isRecord := strings.CutSuffix(name.Name(), recordSuffix); isRecord {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// list returns all readable records. What cannot be read is skipped: it belongs
// to no graft that could be mounted, and is overwritten by the next pull.
func (r records) list() (map[string]Spec, error) {
	ids, err := r.ids()
	if err != nil {
		return nil, err
	}
	specs := make(map[string]Spec)
	for _, id := range ids {
		if spec, err := r.read(id); err == nil {
			specs[id] = spec
		}
	}
	return specs, nil
}

// remove removes what is kept of id: its record last, so that a crash between
// leaves nothing that nobody asks for.
func (r records) remove(id string) error {
	for _, path := range []string{filepath.Join(r.dir, id+CompletionSuffix), r.path(id)} {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("remove volume record: %w", err)
		}
	}
	return nil
}

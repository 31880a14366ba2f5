package fallback

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"

	"github.com/referee-cri/referee/internal/atomicfile"
)

// ErrNoEntry says that the journal knows nothing of a reference or ID.
var ErrNoEntry = errors.New("no entry in the journal")

const (
	maxEntries = 1000    // references the journal remembers
	maxFile    = 1 << 20 // bytes of one entry; a bounded entry has some 600 KiB at the very worst
	suffix     = ".json"
	minID      = 7 // hex digits that are taken for the beginning of an image ID
)

// Journal is the last decision for every reference, one file each, named by the
// reference's SHA-256. A file is complete or not there, also after a crash, so
// other processes read the directory without asking the daemon.
//
// Safe for concurrent use; one process writes.
type Journal struct {
	dir     string
	mu      sync.Mutex // held while the set of files changes
	entries int        // how many are kept
}

// OpenJournal opens the journal in dir for writing. It makes the directory if
// there is none, and removes what a crash left unfinished.
func OpenJournal(dir string) (*Journal, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	if err := atomicfile.RemoveUnfinished(dir); err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	return ReadJournal(dir), nil
}

// ReadJournal is the journal in dir for somebody who only reads. Nothing is
// touched; a directory that does not exist is an empty journal.
func ReadJournal(dir string) *Journal { return &Journal{dir: dir, entries: maxEntries} }

// Record writes e durably in place of what the journal had for its reference.
// Where that makes one entry too many the ones longest untouched go.
func (j *Journal) Record(e Entry) error {
	text, err := json.MarshalIndent(e.bounded(), "", "  ")
	if err != nil {
		return fmt.Errorf("record %s: %w", e.Reference, err)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	path := j.path(e.Reference)
	_, err = os.Lstat(path)
	added := errors.Is(err, fs.ErrNotExist)
	if err := atomicfile.Write(path, append(text, '\n'), 0o600); err != nil {
		return fmt.Errorf("record %s: %w", e.Reference, err)
	}
	if added {
		if err := j.prune(filepath.Base(path)); err != nil {
			return fmt.Errorf("prune journal: %w", err)
		}
	}
	return nil
}

// Last returns the entry for a reference, in any form containerd accepts, or
// for an image by its ID or manifest digest, in full or by the first hex digits.
// Where several references name the image it is the latest. The error is
// ErrNoEntry where nothing is known; it then also names files that could not be read.
func (j *Journal) Last(refOrID string) (Entry, error) {
	if named, err := reference.ParseDockerRef(refOrID); err == nil {
		if entry, err := j.at(named.String()); !errors.Is(err, ErrNoEntry) {
			return entry, err
		}
	} else if entry, err := j.at(refOrID); err == nil { // journalled as it came
		return entry, nil
	}
	id := strings.TrimPrefix(refOrID, "sha256:")
	entries, unreadable := j.All()
	if len(id) >= minID && strings.Trim(id, "0123456789abcdef") == "" {
		for _, entry := range entries { // latest first
			if hasID(entry.Config, id) || hasID(entry.Manifest, id) {
				return entry, nil
			}
		}
	}
	return Entry{}, errors.Join(fmt.Errorf("%s: %w", refOrID, ErrNoEntry), unreadable)
}

// hasID tells whether id begins the digest's hex digits. The digest may be no
// digest at all: it was read from a file.
func hasID(d digest.Digest, id string) bool {
	return strings.HasPrefix(strings.TrimPrefix(string(d), "sha256:"), id)
}

// All returns every entry that can be read, latest first, and an error that
// names the files that cannot, nil if there are none.
func (j *Journal) All() ([]Entry, error) {
	files, err := os.ReadDir(j.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read journal: %w", err)
	}
	var entries []Entry
	var unreadable []error
	for _, file := range files {
		if atomicfile.IsUnfinished(file.Name()) || !strings.HasSuffix(file.Name(), suffix) {
			continue
		}
		entry, err := read(filepath.Join(j.dir, file.Name()))
		switch {
		case err == nil:
			entries = append(entries, entry)
		case !errors.Is(err, ErrNoEntry): // else pruned just now
			unreadable = append(unreadable, err)
		}
	}
	slices.SortStableFunc(entries, func(a, b Entry) int { return b.latest().Compare(a.latest()) })
	return entries, errors.Join(unreadable...)
}

// at reads the entry of a normalised reference.
func (j *Journal) at(reference string) (Entry, error) { return read(j.path(reference)) }

func (j *Journal) path(reference string) string {
	sum := sha256.Sum256([]byte(clip(reference)))
	return filepath.Join(j.dir, hex.EncodeToString(sum[:])+suffix)
}

// prune removes the files longest untouched beyond the limit, never keep.
func (j *Journal) prune(keep string) error {
	files, err := os.ReadDir(j.dir)
	if err != nil {
		return err
	}
	var old []fs.FileInfo
	for _, file := range files {
		if info, err := file.Info(); err == nil && strings.HasSuffix(file.Name(), suffix) && file.Name() != keep {
			old = append(old, info)
		}
	}
	excess := len(old) + 1 - j.entries
	if excess <= 0 {
		return nil
	}
	slices.SortFunc(old, func(a, b fs.FileInfo) int {
		return cmp.Or(a.ModTime().Compare(b.ModTime()), strings.Compare(a.Name(), b.Name()))
	})
	for _, info := range old[:excess] {
		err = errors.Join(err, os.Remove(filepath.Join(j.dir, info.Name())))
	}
	return err
}

// read decodes one file. A file that does not exist is ErrNoEntry.
func read(path string) (Entry, error) {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Entry{}, ErrNoEntry
	} else if err != nil {
		return Entry{}, fmt.Errorf("read journal: %w", err)
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err != nil {
		return Entry{}, fmt.Errorf("read journal: %w", err)
	}
	if len(text) > maxFile {
		return Entry{}, fmt.Errorf("read journal %s: larger than %d bytes", path, maxFile)
	}
	return decode(path, text)
}

// decode parses the text of one file and refuses what Record never writes.
func decode(path string, text []byte) (Entry, error) {
	var entry Entry
	if err := json.Unmarshal(text, &entry); err != nil {
		return Entry{}, fmt.Errorf("read journal %s: %w", path, err)
	}
	if entry.Outcome != Lazy && entry.Outcome != Ordinary {
		return Entry{}, fmt.Errorf("read journal %s: outcome %q is none", path, clip(string(entry.Outcome)))
	}
	return entry, nil
}

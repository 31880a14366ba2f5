package treecmp

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"
)

// record is one line of a tree.jsonl file.
type record struct {
	Path        string            `json:"path"`
	Type        string            `json:"type"`
	Mode        string            `json:"mode"`
	UID         uint32            `json:"uid"`
	GID         uint32            `json:"gid"`
	MtimeSec    *int64            `json:"mtime_sec"`
	MtimeNsec   int64             `json:"mtime_nsec"`
	Size        int64             `json:"size"`
	SHA256      string            `json:"sha256"`
	Target      string            `json:"target"`
	RdevMajor   uint32            `json:"rdev_major"`
	RdevMinor   uint32            `json:"rdev_minor"`
	Xattrs      map[string]string `json:"xattrs"`
	Nlink       int               `json:"nlink"`
	Hardlinks   []string          `json:"hardlinks"`
	StNlinkSeen int               `json:"st_nlink_seen"`
}

// Load reads a tree.jsonl file: one JSON object a path, as the reference data
// holds them.
func Load(path string) (Tree, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	tree, err := Parse(f)
	if err != nil {
		return nil, fmt.Errorf("parse %s: %w", path, err)
	}
	return tree, nil
}

// Parse is Load from a reader.
func Parse(r io.Reader) (Tree, error) {
	tree := Tree{}
	for dec := json.NewDecoder(r); ; {
		var rec record
		err := dec.Decode(&rec)
		if errors.Is(err, io.EOF) {
			return tree, nil
		}
		if err != nil {
			return nil, fmt.Errorf("decode entry %d: %w", len(tree), err)
		}
		entry, err := rec.entry()
		if err != nil {
			return nil, fmt.Errorf("decode entry %q: %w", rec.Path, err)
		}
		tree[entry.Path] = entry
	}
}

func (r record) entry() (Entry, error) {
	mode, err := strconv.ParseUint(r.Mode, 8, 12)
	if err != nil {
		return Entry{}, err
	}
	e := Entry{
		Path: r.Path, Type: r.Type, Mode: uint32(mode), UID: r.UID, GID: r.GID,
		Size: r.Size, SHA256: r.SHA256, Target: r.Target, RdevMajor: r.RdevMajor, RdevMinor: r.RdevMinor,
		Hardlinks: r.Hardlinks, Nlink: r.Nlink,
	}
	if r.StNlinkSeen != 0 {
		e.Nlink = r.StNlinkSeen
	}
	if r.MtimeSec != nil {
		e.Mtime = time.Unix(*r.MtimeSec, r.MtimeNsec).UTC()
	}
	for name, value := range r.Xattrs {
		raw, err := base64.StdEncoding.DecodeString(value)
		if err != nil {
			return Entry{}, fmt.Errorf("decode xattr %s: %w", name, err)
		}
		if e.Xattrs == nil {
			e.Xattrs = map[string]string{}
		}
		e.Xattrs[name] = string(raw)
	}
	return e, nil
}

package treecmp

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// The fields that Diff compares, for Ignore.Field and Difference.Field.
const (
	FieldPresence  = "presence" // the path is in one tree only
	FieldType      = "type"
	FieldMode      = "mode"
	FieldUID       = "uid"
	FieldGID       = "gid"
	FieldMtime     = "mtime"      // whole seconds
	FieldNsec      = "mtime_nsec" // the fraction
	FieldSize      = "size"
	FieldSHA256    = "sha256"
	FieldTarget    = "target"
	FieldRdev      = "rdev"
	FieldXattrs    = "xattrs"
	FieldHardlinks = "hardlinks"
	FieldNlink     = "nlink"
)

// Ignore names a difference that is known and accepted.
type Ignore struct {
	Path  string // exact, "/dir/**" for a directory and all below it, or "" for every path
	Field string // one of the Field constants, or "" for every field
	Why   string // for the reader of the test
}

func (i Ignore) matches(d Difference) bool {
	if i.Field != "" && i.Field != d.Field {
		return false
	}
	if dir, ok := strings.CutSuffix(i.Path, "/**"); ok {
		return d.Path == dir || strings.HasPrefix(d.Path, dir+"/")
	}
	return i.Path == "" || i.Path == d.Path
}

// Difference is one field of one path that is not as wanted.
type Difference struct {
	Path  string
	Field string
	Want  string
	Got   string
}

func (d Difference) String() string {
	return fmt.Sprintf("%q %s: want %s, got %s", d.Path, d.Field, d.Want, d.Got)
}

// Diff returns what distinguishes got from want, in path order, less what
// ignores match.
func Diff(want, got Tree, ignores ...Ignore) []Difference {
	all := maps.Clone(want)
	if all == nil {
		all = Tree{}
	}
	maps.Copy(all, got)
	var found []Difference
	for _, path := range all.Paths() {
		for _, d := range compare(path, want, got) {
			if !slices.ContainsFunc(ignores, func(i Ignore) bool { return i.matches(d) }) {
				found = append(found, d)
			}
		}
	}
	return found
}

func compare(path string, want, got Tree) []Difference {
	w, inWant := want[path]
	g, inGot := got[path]
	if !inWant || !inGot {
		return []Difference{{path, FieldPresence, presence(inWant), presence(inGot)}}
	}
	var ds []Difference
	check := func(field string, w, g any) {
		if ws, gs := fmt.Sprint(w), fmt.Sprint(g); ws != gs {
			ds = append(ds, Difference{path, field, ws, gs})
		}
	}
	check(FieldType, w.Type, g.Type)
	check(FieldMode, fmt.Sprintf("%04o", w.Mode), fmt.Sprintf("%04o", g.Mode))
	check(FieldUID, w.UID, g.UID)
	check(FieldGID, w.GID, g.GID)
	if !w.Mtime.IsZero() && !g.Mtime.IsZero() {
		check(FieldMtime, w.Mtime.Unix(), g.Mtime.Unix())
		check(FieldNsec, w.Mtime.Nanosecond(), g.Mtime.Nanosecond())
	}
	check(FieldSize, w.Size, g.Size)
	check(FieldSHA256, w.SHA256, g.SHA256)
	check(FieldTarget, fmt.Sprintf("%q", w.Target), fmt.Sprintf("%q", g.Target))
	check(FieldRdev, [2]uint32{w.RdevMajor, w.RdevMinor}, [2]uint32{g.RdevMajor, g.RdevMinor})
	check(FieldXattrs, fmt.Sprintf("%q", w.Xattrs), fmt.Sprintf("%q", g.Xattrs))
	check(FieldHardlinks, fmt.Sprintf("%q", w.Hardlinks), fmt.Sprintf("%q", g.Hardlinks))
	check(FieldNlink, w.Nlink, g.Nlink)
	return ds
}

func presence(in bool) string {
	if in {
		return "present"
	}
	return "absent"
}

// Package formattest is the conformance suite of formats: what every reader of an
// accelerated form must do, whatever its bytes look like.
//
// A format is shown the same image as its own writers made it (the reference
// data), and must give the same tree as containerd unpacks, less what the writer
// is known to change. Then its blobs fail, end early and rot below it: there may
// be errors, never wrong bytes and never a panic.
//
// It is test support and not for production code. It mounts through the driver
// fuse and needs root for that.
package formattest

import (
	"bytes"
	"context"
	"sync"
	"testing"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/internal/treecmp"
	"github.com/referee-cri/referee/lazyblock"
)

// Format is what the suite has to know of a format.
type Format struct {
	Open  func(ctx context.Context, form lazyblock.Form) (lazyblock.Volume, error)
	Cases []Case
	// Unverified says that the format has nothing to tell wrong bytes by: then none
	// are put below it.
	Unverified bool
}

// Case is one form of an image.
type Case struct {
	Name string
	// Image is the form, with all its layers.
	Image Image
	// Want are the trees of the first layer, the first two, and so on; nil for a
	// prefix that the form cannot give.
	Want []treecmp.Tree
	// Ignores are what the form's writer is known to change.
	Ignores []treecmp.Ignore
	// Damages are what can be wrong with each structure of the format.
	Damages []Damage
}

// Damage is something wrong with a blob. Opening the form, or reading all of it,
// must fail for the given reason.
type Damage struct {
	Name string
	// Change returns what is there in place of blob, which it must not change. It is
	// called for every blob of the form, layers first, and leaves those alone that it
	// is not about.
	Change func(index int, blob []byte) []byte
	Reason reason.Code
}

// Corrupt is a damage of the blob at index, which the form must call corrupt.
// change gets a copy.
func Corrupt(name string, index int, change func([]byte) []byte) Damage {
	return Damage{Name: name, Reason: reason.FormatCorrupt, Change: func(i int, blob []byte) []byte {
		if i != index {
			return blob
		}
		return change(bytes.Clone(blob))
	}}
}

// Flip changes the byte at index at.
func Flip(b []byte, at int) []byte {
	b[at] ^= 1
	return b
}

// Run runs the suite.
func Run(t *testing.T, format Format) {
	t.Helper()
	for _, c := range format.Cases {
		t.Run(c.Name, func(t *testing.T) {
			t.Parallel()
			b := &bench{Format: format, Case: c}
			for n, want := range c.Want {
				if want != nil {
					t.Run(prefixName(n+1, len(c.Want)), func(t *testing.T) { b.isTheTree(t, n+1, want) })
				}
			}
			for name, check := range map[string]func(*testing.T){
				"reads of any shape give the same bytes":     b.readsAnyShape,
				"opening again gives the same bytes":         b.opensTheSame,
				"ends with its context, and when closed":     b.ends,
				"gives errors or right bytes on a bad day":   b.bearsFaults,
				"reads anew what rots in the cache":          b.readsAnew,
				"gives errors or right bytes after any flip": b.bearsFlips,
				"gives errors or right bytes when truncated": b.bearsTruncation,
			} {
				t.Run(name, check)
			}
			for _, damage := range c.Damages {
				t.Run("tells of "+damage.Name, func(t *testing.T) { b.tells(t, damage) })
			}
		})
	}
}

// bench is one form at work.
type bench struct {
	Format
	Case

	once  sync.Once
	dumps [][]byte // of the devices, intact
}

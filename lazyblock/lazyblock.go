// Package lazyblock names what a lazily read image is made of: byte ranges,
// devices and volumes.
//
// The packages below it follow the data, and each knows only the one before:
//
//	blob            ranged reads of a registry blob
//	cache           what of a blob is already on this node
//	format/<name>   blob bytes to device bytes
//	attach          a device to a kernel mount
//	graft           a mount to containerd's snapshot
//
// volume ties them together and remembers on disk what to do again after a
// restart. Nothing here knows CRI or policy.
package lazyblock

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/referee-cri/referee/internal/reason"
)

// RangeReader is random access to a sequence of bytes that never changes.
//
// Implementations are safe for concurrent use.
type RangeReader interface {
	// ReadRange fills p with the bytes from off. Like io.ReaderAt it returns
	// n < len(p) only together with an error, which is io.EOF where the bytes
	// end. When ctx ends it returns promptly with ctx's error; work shared with
	// other readers may go on.
	ReadRange(ctx context.Context, p []byte, off int64) (n int, err error)
	// Size is the number of bytes.
	Size() int64
}

// ReadFull fills p with the bytes of r from off. Where they end before p is full it
// blames the format, which promised them: reason.FormatCorrupt and
// io.ErrUnexpectedEOF.
func ReadFull(ctx context.Context, r RangeReader, p []byte, off int64) error {
	n, err := r.ReadRange(ctx, p, off)
	switch {
	case n == len(p):
		return nil
	case err == nil || errors.Is(err, io.EOF):
		return reason.Errorf(reason.FormatCorrupt, "read %d bytes at %d: only %d there: %w", len(p), off, n, io.ErrUnexpectedEOF)
	default:
		return fmt.Errorf("read %d bytes at %d: %w", len(p), off, err)
	}
}

// Invalidator is what a RangeReader with a cache below may also be: bytes that
// turn out wrong are dropped, and the next read fetches them anew.
type Invalidator interface {
	// Invalidate forgets the cached bytes of [off, off+n). After an error they are
	// forgotten all the same, but a crash may bring them back.
	Invalidate(ctx context.Context, off, n int64) error
}

// Device is a read-only random-access block image: what the kernel will mount.
// Reads are verified as far as the format allows.
type Device interface {
	RangeReader
	io.Closer
	// ID is stable across restarts, derived from digests, and safe as a file name.
	ID() string
}

// Volume is what an attach driver turns into a mounted directory.
type Volume struct {
	FSType  string   // "erofs", "ext4", "xfs" or "squashfs"
	Primary Device   // holds the superblock
	Extra   []Device // further EROFS devices, in slot order
	Options []string // mount(2) data, joined with commas

	// What to fetch first where nobody knows better: ranges of blobs, in order, and
	// files and directories, relative to the root of what is mounted.
	Hints []Hint
	Paths []string
}

// Close closes every device and returns the first error.
func (v *Volume) Close() error {
	err := v.Primary.Close()
	for _, device := range v.Extra {
		if cerr := device.Close(); err == nil {
			err = cerr
		}
	}
	return err
}

// readerAt adapts a RangeReader for libraries that want an io.ReaderAt.
type readerAt struct {
	ctx context.Context //nolint:containedctx // the adapter's whole purpose is to bind one
	r   RangeReader
}

// ReaderAt binds ctx to r for code that knows only io.ReaderAt.
func ReaderAt(ctx context.Context, r RangeReader) io.ReaderAt { return readerAt{ctx, r} }

func (r readerAt) ReadAt(p []byte, off int64) (int, error) { return r.r.ReadRange(r.ctx, p, off) }

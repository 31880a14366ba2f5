package overlaybd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
)

// LayerOptions say what a layer is. The zero value of all but VirtualSize is
// what stock's converter does.
type LayerOptions struct {
	VirtualSize int64  // bytes of the disk, a multiple of 512; the same for all layers of a stack
	UUID        string // 8-4-4-4-12 hexadecimal digits, as UUIDFromChainID gives; "" for zeros
	ParentUUID  string // of the layer below; "" for zeros
	UserTag     string // at most 255 bytes
	Algorithm   Algorithm
	BlockSize   int // uncompressed bytes a block: 4096 (default), 8192, 16384 or 32768
}

const (
	zeroUUID         = "00000000-0000-0000-0000-000000000000"
	defaultBlock     = 4096
	maxWriterBlock   = 32768 // stock cannot read incompressible blocks of 65536 (spec 3.4)
	commitStep       = 64    // sectors that stock copies at a time, one entry each (spec 4.5)
	coalesceLimit    = 16383 // sectors; joined entries stay below it
	writableSegments = maxLayerSegments / padSegments * padSegments
)

// LayerWriter writes one layer blob: tar around ZFile around LSMT, the same
// bytes whatever the machine. Memory does not grow with the data but for its
// indexes: 2 bytes a block and 16 for each run of sectors.
//
// A LayerWriter is for one goroutine. It starts others only within a call.
type LayerWriter struct {
	opts     LayerOptions
	blocks   *blockWriter
	segments []segment // in the order of writing
	next     uint64    // sector of the LSMT file that is written next
	err      error     // what made the writer useless
}

// NewLayerWriter starts a layer in f, which is empty and stays the caller's.
func NewLayerWriter(f *os.File, opts LayerOptions) (*LayerWriter, error) {
	opts.Algorithm = cmp.Or(opts.Algorithm, LZ4)
	opts.BlockSize = cmp.Or(opts.BlockSize, defaultBlock)
	opts.UUID = strings.ToUpper(cmp.Or(opts.UUID, zeroUUID))
	opts.ParentUUID = strings.ToUpper(cmp.Or(opts.ParentUUID, zeroUUID))
	if err := opts.check(); err != nil {
		return nil, fmt.Errorf("start layer: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("start layer: %w", err)
	}
	if info.Size() != 0 {
		return nil, fmt.Errorf("start layer: %s has %d bytes already", f.Name(), info.Size())
	}
	blocks, err := newBlockWriter(f, tarPrefix, opts.Algorithm, opts.BlockSize)
	if err != nil {
		return nil, fmt.Errorf("start layer: %w", err)
	}
	w := &LayerWriter{opts: opts, blocks: blocks, next: firstData}
	if err := blocks.write(w.header(lsmtCommittedHeader).encode()); err != nil {
		return nil, fmt.Errorf("start layer: %w", err)
	}
	return w, nil
}

func (o *LayerOptions) check() error {
	switch {
	case o.VirtualSize <= 0 || o.VirtualSize > maxVirtualSize || o.VirtualSize%sector != 0:
		return fmt.Errorf("virtual size %d", o.VirtualSize)
	case !isUUID(o.UUID) || !isUUID(o.ParentUUID):
		return fmt.Errorf("UUIDs %q and %q are not 8-4-4-4-12 digits", o.UUID, o.ParentUUID)
	case len(o.UserTag) >= userTagSize:
		return fmt.Errorf("user tag has %d bytes, more than %d", len(o.UserTag), userTagSize-1)
	case !slices.Contains([]int{4096, 8192, 16384, maxWriterBlock}, o.BlockSize):
		return fmt.Errorf("block size %d", o.BlockSize)
	default:
		return nil
	}
}

func (w *LayerWriter) header(flags uint32) *lsmtHeader {
	return &lsmtHeader{
		flags: flags, virtualSize: uint64(w.opts.VirtualSize),
		uuid: w.opts.UUID, parentUUID: w.opts.ParentUUID, userTag: w.opts.UserTag,
	}
}

// WriteAt puts p at off of the virtual disk. Both are multiples of 512, and no
// sector may be written twice; Finish finds out. What is written first is
// stored first; sectors that are never written stay unmapped.
//
// After an error the layer cannot be finished.
func (w *LayerWriter) WriteAt(p []byte, off int64) (int, error) {
	if w.err == nil {
		w.err = w.writeAt(p, off)
	}
	if w.err != nil {
		return 0, fmt.Errorf("write %d bytes at %d of the layer: %w", len(p), off, w.err)
	}
	return len(p), nil
}

func (w *LayerWriter) writeAt(p []byte, off int64) error {
	if off < 0 || off%sector != 0 || len(p)%sector != 0 || int64(len(p)) > w.opts.VirtualSize-off {
		return fmt.Errorf("not whole sectors of a disk of %d bytes", w.opts.VirtualSize)
	}
	start, end := uint64(off/sector), uint64(off/sector)+uint64(len(p)/sector)
	for ; start < end; start += commitStep {
		n := min(commitStep, end-start)
		w.segments = coalesce(w.segments, newSegment(start, n, w.next))
		w.next += n
	}
	if len(w.segments) > writableSegments {
		return fmt.Errorf("more than %d segments", writableSegments)
	}
	return w.blocks.write(p)
}

// coalesce appends s, joined with the segment before where both lie side by
// side on the disk and in the file (spec 4.5). Data that is side by side in
// the file was written one after the other, so joining while writing gives
// what joining the sorted index would.
func coalesce(segs []segment, s segment) []segment {
	if n := len(segs); n > 0 {
		last := segs[n-1]
		length := last.sectors() + s.sectors()
		if last.end() == s.start() && last.moffset()+last.sectors() == s.moffset() && length < coalesceLimit {
			segs[n-1] = newSegment(last.start(), length, last.moffset())
			return segs
		}
	}
	return append(segs, s)
}

// Finish completes the blob and returns its size. The file is neither synced
// nor closed.
func (w *LayerWriter) Finish(ctx context.Context) (size int64, err error) {
	if w.err == nil {
		size, err = w.finish(ctx)
		w.err = errors.New("the layer is finished")
	} else {
		err = w.err
	}
	if err != nil {
		return 0, fmt.Errorf("finish layer: %w", err)
	}
	return size, nil
}

func (w *LayerWriter) finish(ctx context.Context) (int64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if err := w.writeIndex(ctx); err != nil {
		return 0, err
	}
	payload, err := w.blocks.finish()
	if err != nil {
		return 0, err
	}
	f := w.blocks.f
	if _, err := f.WriteAt(tarTail(payload), tarPrefix+payload); err != nil {
		return 0, err
	}
	if _, err := f.WriteAt(tarHead(payload), 0); err != nil {
		return 0, err
	}
	return tarPrefix + payload + int64(len(tarTail(payload))), nil
}

// writeIndex writes the sorted, padded index and the LSMT trailer.
func (w *LayerWriter) writeIndex(ctx context.Context) error {
	slices.SortFunc(w.segments, func(a, b segment) int { return cmp.Compare(a.start(), b.start()) })
	trailer := w.header(lsmtTrailer)
	trailer.indexOffset = w.next * sector
	trailer.indexEntries = uint64(roundUp(len(w.segments), padSegments))

	page := make([]byte, 0, padSegments*segmentSize)
	last := uint64(0)
	for i := range int(trailer.indexEntries) {
		s := segment{lo: invalidOffset}
		if i < len(w.segments) {
			s = w.segments[i]
			if s.start() < last {
				return fmt.Errorf("sector %d was written twice", s.start())
			}
			last = s.end()
		}
		if page = s.appendTo(page); len(page) < cap(page) {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := w.blocks.write(page); err != nil {
			return err
		}
		page = page[:0]
	}
	return w.blocks.write(trailer.encode())
}

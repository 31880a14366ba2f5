package ztoc

import (
	"encoding/binary"
	"fmt"

	flatbuffers "github.com/google/flatbuffers/go"

	"github.com/referee-cri/referee/lazyblock/format/gzindex"
)

// Layout of the checkpoints of a compressed layer (gzip_zinfo.h): a header, and for
// each checkpoint its place and the data before it.
const (
	zinfoHead       = 4 + 8
	checkpointHead  = 8 + 8 + 1
	checkpointBytes = checkpointHead + gzindex.WindowSize
)

// maxZinfo bounds what is held in memory, in bytes; FlatBuffers end at 2 GiB.
const maxZinfo = 1 << 30

// checkpoints are places from which a compressed layer can be inflated.
type checkpoints struct {
	spanSize int64
	places   []gzindex.Checkpoint
	windows  gzindex.Windows // the data before each
}

// visit takes the first place where a block begins, and then each that lies more than
// a span behind the last: also one behind all data, where a block is empty.
func (c *checkpoints) visit(at gzindex.Checkpoint, window []byte) error {
	if n := len(c.places); n > 0 && at.Out-c.places[n-1].Out <= c.spanSize {
		return nil
	}
	if len(c.places) == maxZinfo/checkpointBytes {
		return fmt.Errorf("%w: more than %d spans: it wants larger ones", ErrNotIndexed, len(c.places))
	}
	c.places = append(c.places, at)
	return c.windows.Add(window)
}

// spans returns where the spans lie in a layer of size bytes, given its plain length.
// The first byte of a span may be the last of the one before.
func (c *checkpoints) spans(size, plainSize int64) ([]extent, error) {
	spans := make([]extent, len(c.places))
	for i, at := range c.places {
		end, plainEnd := size, plainSize
		if i+1 < len(c.places) {
			end, plainEnd = c.places[i+1].In, c.places[i+1].Out
		}
		spans[i] = extent{at.Start(), end - at.Start()}
		if spans[i].length > gzindex.MaxSpan || plainEnd-at.Out > gzindex.MaxSpan {
			return nil, fmt.Errorf("%w: no block begins for %d bytes from byte %d of its data on, and readers inflate no more than %d at once",
				ErrNotIndexed, plainEnd-at.Out, at.Out, int64(gzindex.MaxSpan))
		}
	}
	return spans, nil
}

// extent is a range of the layer as it is stored.
type extent struct{ at, length int64 }

// encode spells the checkpoints. A window is its data's end: what lies before the
// beginning of the layer is zero.
func (c *checkpoints) encode() ([]byte, error) {
	b := make([]byte, zinfoHead+len(c.places)*checkpointBytes)
	binary.LittleEndian.PutUint32(b, uint32(len(c.places)))
	binary.LittleEndian.PutUint64(b[4:], uint64(c.spanSize))
	var window []byte
	for i, place := range c.places {
		at := b[zinfoHead+i*checkpointBytes:][:checkpointBytes]
		binary.LittleEndian.PutUint64(at, uint64(place.In))
		binary.LittleEndian.PutUint64(at[8:], uint64(place.Out))
		at[16] = place.Bits
		var err error
		if window, err = c.windows.Window(window[:0], i); err != nil {
			return nil, fmt.Errorf("window of checkpoint %d: %w", i, err)
		}
		copy(at[checkpointBytes-len(window):], window)
	}
	return b, nil
}

// tarZinfo spells the spans of a layer that is not compressed.
func tarZinfo(spanSize, size int64) []byte {
	b := flatbuffers.NewBuilder(0)
	b.StartObject(3)
	b.PrependInt32Slot(0, 2, 0) // version
	b.PrependInt64Slot(1, spanSize, 0)
	b.PrependInt64Slot(2, size, 0)
	b.Finish(b.EndObject())
	return b.FinishedBytes()
}

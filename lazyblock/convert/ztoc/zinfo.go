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

// zinfo spells checkpoints. A window is its data's end: what lies before the
// beginning of the layer is zero.
func zinfo(index *gzindex.Index, spanSize int64) ([]byte, error) {
	n := len(index.Checkpoints)
	if n > (maxZinfo-zinfoHead)/checkpointBytes {
		return nil, fmt.Errorf("%w: %d spans, which want larger ones", ErrNotIndexed, n)
	}
	b := make([]byte, zinfoHead+n*checkpointBytes)
	binary.LittleEndian.PutUint32(b, uint32(n))
	binary.LittleEndian.PutUint64(b[4:], uint64(spanSize))
	var window []byte
	for i, c := range index.Checkpoints {
		at := b[zinfoHead+i*checkpointBytes:][:checkpointBytes]
		binary.LittleEndian.PutUint64(at, uint64(c.In))
		binary.LittleEndian.PutUint64(at[8:], uint64(c.Out))
		at[16] = c.Bits
		var err error
		if window, err = index.Windows.Window(window[:0], i); err != nil {
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

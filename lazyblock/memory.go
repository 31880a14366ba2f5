package lazyblock

import (
	"bytes"
	"context"
)

// InMemory is a RangeReader of bytes in memory.
type InMemory []byte

var _ RangeReader = InMemory(nil)

// Size implements RangeReader.
func (m InMemory) Size() int64 { return int64(len(m)) }

// ReadRange implements RangeReader. It fails with a context that has ended.
func (m InMemory) ReadRange(ctx context.Context, p []byte, off int64) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	return bytes.NewReader(m).ReadAt(p, off)
}

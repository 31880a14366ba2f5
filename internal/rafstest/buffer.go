package rafstest

import (
	"bytes"
	"context"
)

// buffer is a file in memory.
type buffer struct{ bytes []byte }

func (b *buffer) grow(n int) {
	if n > len(b.bytes) {
		b.bytes = append(b.bytes, make([]byte, n-len(b.bytes))...)
	}
}

// WriteAt implements io.WriterAt.
func (b *buffer) WriteAt(p []byte, off int64) (int, error) {
	b.grow(int(off) + len(p))
	return copy(b.bytes[off:], p), nil
}

// ReadRange implements lazyblock.RangeReader.
func (b *buffer) ReadRange(_ context.Context, p []byte, off int64) (int, error) {
	return bytes.NewReader(b.bytes).ReadAt(p, off)
}

// Size implements lazyblock.RangeReader.
func (b *buffer) Size() int64 { return int64(len(b.bytes)) }

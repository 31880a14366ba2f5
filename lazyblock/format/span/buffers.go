package span

import (
	"math/bits"
	"sync"
)

// Classes of buffers: powers of two. Larger ones are left to the garbage
// collector, so that rare huge spans do not stay in memory.
const (
	smallestClass = 12
	largestClass  = 23 // 8 MiB
)

// buffers recycles the memory of spans, stored and decoded.
type buffers struct {
	classes [largestClass + 1]sync.Pool
}

// class is log2 of the buffer that holds n bytes.
func class(n int64) int { return max(smallestClass, bits.Len64(uint64(n-1))) }

// borrow returns a buffer of n > 0 bytes, with anything in it.
func (b *buffers) borrow(n int64) *[]byte {
	c := class(n)
	if c > largestClass {
		buf := make([]byte, n)
		return &buf
	}
	buf, ok := b.classes[c].Get().(*[]byte)
	if !ok {
		made := make([]byte, 1<<c)
		buf = &made
	}
	*buf = (*buf)[:n]
	return buf
}

func (b *buffers) giveBack(buf *[]byte) {
	if c := class(int64(cap(*buf))); c <= largestClass {
		b.classes[c].Put(buf)
	}
}

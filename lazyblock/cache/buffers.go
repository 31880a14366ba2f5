package cache

import (
	"math/bits"
	"sync"
)

// smallestBuffer is the size of the first class, as a power of two: 64 KiB.
const smallestBuffer = 16

// buffers lends byte slices in classes of powers of two.
type buffers struct{ classes []sync.Pool }

func newBuffers(largest int64) *buffers {
	return &buffers{classes: make([]sync.Pool, class(largest)+1)}
}

func class(n int64) int { return max(bits.Len64(uint64(n-1))-smallestBuffer, 0) }

func (b *buffers) get(n int64) []byte {
	c := class(n)
	if p, ok := b.classes[c].Get().(*[]byte); ok {
		return (*p)[:n]
	}
	return make([]byte, n, 1<<(smallestBuffer+c))
}

// put takes back a slice from get that nobody uses any more.
func (b *buffers) put(p []byte) {
	p = p[:cap(p)]
	b.classes[class(int64(len(p)))].Put(&p)
}

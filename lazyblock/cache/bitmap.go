package cache

import (
	"math/bits"
	"sync/atomic"
)

// bitmap is a set of block numbers that is read without a lock.
type bitmap []atomic.Uint64

func bitmapWords(blocks int64) int64 { return (blocks + 63) / 64 }

func newBitmap(blocks int64) bitmap { return make(bitmap, bitmapWords(blocks)) }

func (b bitmap) has(block int64) bool { return b[block/64].Load()>>(block%64)&1 == 1 }

// hasAll reports whether every block in [first, end) is in the set.
func (b bitmap) hasAll(first, end int64) bool {
	for first < end {
		mask := maskFrom(first, end)
		if b[first/64].Load()&mask != mask {
			return false
		}
		first = (first/64 + 1) * 64
	}
	return true
}

// add puts [first, end) into the set.
func (b bitmap) add(first, end int64) {
	for first < end {
		b[first/64].Or(maskFrom(first, end))
		first = (first/64 + 1) * 64
	}
}

// remove takes [first, end) out of the set and returns the number of blocks that
// were in it.
func (b bitmap) remove(first, end int64) (removed int) {
	for first < end {
		mask := maskFrom(first, end)
		before := b[first/64].And(^mask)
		removed += bits.OnesCount64(mask & before)
		first = (first/64 + 1) * 64
	}
	return removed
}

// words returns a copy of the set.
func (b bitmap) words() []uint64 {
	words := make([]uint64, len(b))
	for i := range b {
		words[i] = b[i].Load()
	}
	return words
}

// load replaces the set.
func (b bitmap) load(words []uint64) {
	for i := range b {
		b[i].Store(words[i])
	}
}

// maskFrom has the bits of [first, end) that are in the word of first.
func maskFrom(first, end int64) uint64 {
	mask := ^uint64(0) << (first % 64)
	if left := end - first/64*64; left < 64 {
		mask &= 1<<left - 1
	}
	return mask
}

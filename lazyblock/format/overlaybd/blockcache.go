package overlaybd

import "sync"

// blockCache remembers a few expanded blocks of which a read wanted only a
// part: the neighbour is likely to be asked for next. Blocks that were wanted
// whole are in the kernel's page cache now and not kept here.
//
// A block has one slot it can be in, so that memory is bounded and reused.
type blockCache struct {
	slots [cacheSlots]cacheSlot
}

const (
	cacheSlots    = 16
	maxCacheBlock = 64 << 10 // 1 MiB in all
)

type cacheSlot struct {
	mu    sync.Mutex
	layer int
	block int
	data  []byte // empty: nothing here
}

func (c *blockCache) slot(layer, block int) *cacheSlot {
	return &c.slots[(layer*7+block)%cacheSlots]
}

// get calls use with the block, if it is here, and says whether it was. use
// must not keep the slice.
func (c *blockCache) get(layer, block int, use func([]byte)) bool {
	s := c.slot(layer, block)
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.data) == 0 || s.layer != layer || s.block != block {
		return false
	}
	use(s.data)
	return true
}

// put keeps a copy of data.
func (c *blockCache) put(layer, block int, data []byte) {
	if len(data) > maxCacheBlock {
		return
	}
	s := c.slot(layer, block)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.layer, s.block = layer, block
	s.data = append(s.data[:0], data...)
}

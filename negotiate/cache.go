package negotiate

import (
	"container/list"
	"sync"
	"time"
)

// lru is a bounded map whose entries expire. The total weight of its entries,
// as the caller counts it, never exceeds limit; the least recently used go first.
// Safe for concurrent use.
type lru[K comparable, V any] struct {
	limit int
	now   func() time.Time

	mu     sync.Mutex
	weight int
	order  *list.List // front: most recently used
	items  map[K]*list.Element
}

type lruItem[K comparable, V any] struct {
	key     K
	value   V
	weight  int
	expires time.Time
}

func newLRU[K comparable, V any](limit int, now func() time.Time) *lru[K, V] {
	return &lru[K, V]{limit: limit, now: now, order: list.New(), items: map[K]*list.Element{}}
}

// get returns the value of key if it has not expired.
func (c *lru[K, V]) get(key K) (V, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var none V
	element, ok := c.items[key]
	if !ok {
		return none, false
	}
	item := element.Value.(*lruItem[K, V]) //nolint:errcheck,forcetypeassert // only put fills the list
	if !c.now().Before(item.expires) {
		c.drop(element)
		return none, false
	}
	c.order.MoveToFront(element)
	return item.value, true
}

// put remembers value for ttl. What is heavier than the whole cache is not kept.
func (c *lru[K, V]) put(key K, value V, weight int, ttl time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if element, ok := c.items[key]; ok {
		c.drop(element)
	}
	if weight > c.limit {
		return
	}
	c.items[key] = c.order.PushFront(&lruItem[K, V]{key, value, weight, c.now().Add(ttl)})
	c.weight += weight
	for c.weight > c.limit {
		c.drop(c.order.Back())
	}
}

func (c *lru[K, V]) drop(element *list.Element) {
	item := c.order.Remove(element).(*lruItem[K, V]) //nolint:errcheck,forcetypeassert // only put fills the list
	delete(c.items, item.key)
	c.weight -= item.weight
}

package cache

import (
	"crypto/rand"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"

	"go.uber.org/zap"
)

// scratchPrefix begins the name that a scratch file has while it is made.
const scratchPrefix = "scratch-"

// Scratch is room in the cache for bytes that can be made again from what is in
// it: a sparse file without a name, which goes with the process however that ends.
// It counts like all else that is kept, takes no room from blobs, and is the first
// to go where they, or others on the file system, need some. It is safe for
// concurrent use.
type Scratch struct {
	store *Store
	bytes int64 // under Store.mu

	mu   sync.RWMutex // held for each use of data; behind Store.mu
	data diskFile     // nil: gone
}

// Scratch makes one. It must be closed.
func (s *Store) Scratch() (*Scratch, error) {
	name := filepath.Join(s.dir, scratchPrefix+rand.Text())
	data, err := s.disk.OpenFile(name, true)
	if err != nil {
		return nil, fmt.Errorf("make scratch file: %w", err)
	}
	if err := s.disk.Remove(name); err != nil {
		return nil, errors.Join(fmt.Errorf("make scratch file: %w", err), data.Close())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, errors.Join(errors.New("make scratch file: cache is closed"), data.Close())
	}
	c := &Scratch{store: s, data: data}
	s.scratches[c] = struct{}{}
	return c, nil
}

// isScratch tells what a process left that died while it made one.
func isScratch(name string) bool { return strings.HasPrefix(name, scratchPrefix) }

// WriteAt writes p where nothing was written before. It fails where there is no
// room to spare (see Store.Spare), and for good once the cache has needed the room.
func (c *Scratch) WriteAt(p []byte, off int64) (int, error) {
	n := int64(len(p))
	if err := c.store.spare(n, false); err != nil {
		return 0, err
	}
	if !c.count(n) {
		return 0, errNoRoom
	}
	written, err := c.use(func(data diskFile) (int, error) { return data.WriteAt(p, off) })
	if err != nil {
		c.count(-n)
	}
	return written, err
}

// ReadAt reads what was written. It fails once the cache has needed the room.
func (c *Scratch) ReadAt(p []byte, off int64) (int, error) {
	return c.use(func(data diskFile) (int, error) { return data.ReadAt(p, off) })
}

// Close gives the room back. To close twice is no error.
func (c *Scratch) Close() error {
	c.store.mu.Lock()
	defer c.store.mu.Unlock()
	return c.store.drop(c)
}

// use calls f unless the file is gone.
func (c *Scratch) use(f func(diskFile) (int, error)) (int, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.data == nil {
		return 0, errNoRoom
	}
	return f(c.data)
}

// count adds n to what is kept and reports whether the file is still there.
func (c *Scratch) count(n int64) bool {
	c.store.mu.Lock()
	defer c.store.mu.Unlock()
	if _, there := c.store.scratches[c]; !there {
		return false // it went with all that was counted
	}
	c.bytes += n
	c.store.bytes += n
	return true
}

// drop gives up a scratch file and its room. The caller holds s.mu.
func (s *Store) drop(c *Scratch) error {
	if _, there := s.scratches[c]; !there {
		return nil
	}
	delete(s.scratches, c)
	s.bytes -= c.bytes
	c.mu.Lock()
	defer c.mu.Unlock()
	data := c.data
	c.data = nil
	return data.Close() // it has no name
}

// dropLargest gives up the scratch file that holds most, and reports whether there
// was one that holds anything. The caller holds s.mu.
func (s *Store) dropLargest() bool {
	var largest *Scratch
	for c := range s.scratches {
		if c.bytes > 0 && (largest == nil || c.bytes > largest.bytes) {
			largest = c
		}
	}
	if largest == nil {
		return false
	}
	s.opts.Log.Debug("dropped decoded bytes for want of room", zap.Int64("bytes", largest.bytes))
	_ = s.drop(largest) // its bytes are of no use any more
	return true
}

// yieldScratch gives up scratch files for as long as there is no room to spare:
// somebody else has filled the file system.
func (s *Store) yieldScratch() {
	for s.spare(0, false) != nil {
		s.mu.Lock()
		dropped := s.dropLargest()
		s.mu.Unlock()
		if !dropped {
			return
		}
	}
}

// scratch is how many bytes scratch files take. The caller holds s.mu.
func (s *Store) scratch() (bytes int64) {
	for c := range s.scratches {
		bytes += c.bytes
	}
	return bytes
}

package cache

import (
	"time"

	"go.uber.org/zap"
)

// flushRegularly writes maps, and looks whether the file system has become full,
// until the store is closed.
func (s *Store) flushRegularly() {
	ticker := time.NewTicker(s.opts.FlushInterval)
	defer ticker.Stop()
	for {
		select {
		case <-s.stop:
			return
		case <-ticker.C:
			s.Flush()
			s.yieldScratch()
		}
	}
}

// Flush makes durable what is cached now. It happens by itself every
// Options.FlushInterval and when a blob is closed.
func (s *Store) Flush() {
	s.mu.Lock()
	var dirty []*file
	for _, e := range s.entries {
		if e.file != nil && e.file.sparse.dirty.Load() {
			dirty = append(dirty, e.file)
		}
	}
	s.mu.Unlock()
	for _, f := range dirty {
		f.flush()
	}
}

func (f *file) flush() {
	if err := f.sparse.flush(); err != nil && !f.closed() {
		f.store.opts.Log.Warn("writing a cache map", zap.Stringer("digest", f.entry.digest), zap.Error(err))
	}
}

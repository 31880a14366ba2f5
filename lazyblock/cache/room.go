package cache

import (
	"errors"
	"fmt"
	"syscall"

	"go.uber.org/zap"
)

var errNoRoom = errors.New("cache or its disk is full of what is in use")

// Spare returns an error that says why n more bytes should not be kept unless a
// reader needs them: that would take room from other blobs, or from the node. What
// scratch files take is to be had.
func (s *Store) Spare(n int64) error { return s.spare(n, true) }

// spare is Spare, also for those before whom scratch files do not yield.
func (s *Store) spare(n int64, scratchYields bool) error {
	s.mu.Lock()
	var yields int64
	if scratchYields {
		yields = s.scratch()
	}
	bytes := s.bytes - yields
	s.mu.Unlock()
	if s.opts.MaxBytes > 0 && bytes+n > s.opts.LowBytes {
		return fmt.Errorf("the cache holds %d bytes of at most %d", bytes, s.opts.MaxBytes)
	}
	free, size, err := s.disk.Space(s.dir)
	if err != nil {
		return err
	}
	free += yields
	if free-n < size/100*int64(max(s.opts.SpareOfDisk, 0)) {
		return fmt.Errorf("the cache's file system has %d of %d bytes free", free, size)
	}
	return nil
}

// reserve counts n more bytes of e, after making room for them. written must be
// called when they are in the file, or will not be.
func (s *Store) reserve(e *entry, n int64) (written func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.makeRoom(n) {
		return nil, errNoRoom
	}
	e.bytes += n
	s.bytes += n
	s.writing += n
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.writing -= n
	}, nil
}

// unreserve takes n bytes of e off the count.
func (s *Store) unreserve(e *entry, n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e.bytes -= n
	s.bytes -= n
}

// keepFree is the default of Options.KeepFree.
const keepFree = 1 << 30

// makeRoom removes scratch files and unused blobs until n more bytes fit, and
// reports whether they do. The caller holds s.mu.
func (s *Store) makeRoom(n int64) bool {
	if s.opts.MaxBytes > 0 && s.bytes+n > s.opts.MaxBytes {
		for s.bytes+n > s.opts.LowBytes && s.evict() {
		}
		if s.bytes+n > s.opts.MaxBytes {
			return false
		}
	}
	for s.scarce(n) {
		if !s.evict() {
			return false
		}
	}
	return true
}

// scarce reports whether n more bytes would leave too little of the file system
// to others, once what is reserved is written. The caller holds s.mu.
func (s *Store) scarce(n int64) bool {
	if s.opts.KeepFree < 0 {
		return false
	}
	free, size, err := s.disk.Space(s.dir)
	if err != nil {
		return false // writes will tell
	}
	least := s.opts.KeepFree
	if least == 0 {
		least = min(keepFree, size/20)
	}
	return free-s.writing-n < least
}

// evict drops a scratch file, or removes the blob that has not been used for
// longest, and reports whether there was one. The caller holds s.mu.
func (s *Store) evict() bool {
	if s.dropLargest() {
		return true
	}
	var oldest *entry
	for _, e := range s.entries {
		if e.refs == 0 && e.closing == nil && (oldest == nil || e.used.Before(oldest.used)) {
			oldest = e
		}
	}
	if oldest == nil {
		return false
	}
	if err := s.remove(oldest); err != nil {
		s.opts.Log.Warn("evicting a cached blob", zap.Stringer("digest", oldest.digest), zap.Error(err))
	} else {
		s.counts.evictions.Add(1)
		s.counts.evictedBytes.Add(oldest.bytes)
		s.opts.Log.Debug("evicted a cached blob", zap.Stringer("digest", oldest.digest), zap.Int64("bytes", oldest.bytes))
	}
	return true
}

// keep writes fetched bytes to the file. Where that is impossible they are not
// kept, which is told once until it works again.
func (s *Store) keep(f *file, p []byte, off int64) error {
	written, err := s.reserve(f.entry, int64(len(p)))
	if err == nil {
		if err = s.write(f, p, off); err != nil {
			s.unreserve(f.entry, int64(len(p)))
		}
		written()
	}
	if err != nil {
		s.counts.refusedBytes.Add(int64(len(p)))
	}
	s.tell(f, int64(len(p)), err)
	return err
}

// tell logs that n bytes of f were the first that could not be kept, or could be
// again. That fewer bytes than were refused find room is no news.
func (s *Store) tell(f *file, n int64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err != nil && s.refused == 0:
		s.opts.Log.Warn("cache cannot keep what is read; reads go on without it", zap.Stringer("digest", f.entry.digest), zap.Error(err))
		s.refused = n
	case err != nil:
		s.refused = min(s.refused, n)
	case s.refused > 0 && n >= s.refused:
		s.opts.Log.Info("cache keeps what is read again")
		s.refused = 0
	}
}

// write tries again where the disk was full and a blob could be removed.
func (s *Store) write(f *file, p []byte, off int64) error {
	for {
		err := f.sparse.write(p, off)
		if !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, syscall.EDQUOT) {
			return err
		}
		s.mu.Lock()
		evicted := s.evict()
		s.mu.Unlock()
		if !evicted {
			return err
		}
	}
}

// Package reload keeps what was read from files up to date with them. It runs no
// goroutines: who asks finds out whether the files have changed.
package reload

import (
	"sync"

	"go.uber.org/zap"
)

// Store holds what a trust store's files say. Safe for concurrent use.
type Store[T any] struct {
	look func() string
	read func() (T, error)
	log  *zap.Logger

	mu   sync.Mutex
	seen string // what the files looked like when they were last read, well or not
	now  T      // as last read well
}

// Load reads the files, and fails if they cannot be used. look returns another
// text when they have changed.
func Load[T any](look func() string, read func() (T, error), log *zap.Logger) (*Store[T], error) {
	s := &Store[T]{look: look, read: read, log: log, seen: look()} // before reading: a change in between is seen next time
	var err error
	s.now, err = read()
	return s, err
}

// Current returns what the files say now, or said when they were last in order:
// a half-written file must not stop every pull. The log tells of both.
func (s *Store[T]) Current() T {
	s.mu.Lock()
	defer s.mu.Unlock()
	seen := s.look()
	if seen == s.seen {
		return s.now
	}
	s.seen = seen
	next, err := s.read()
	if err != nil {
		s.log.Warn("trust store kept as it was: its files cannot be used", zap.Error(err))
		return s.now
	}
	s.log.Info("trust store read again")
	s.now = next
	return next
}

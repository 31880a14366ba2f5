// Package reload keeps what was read from files up to date with them. It runs no
// goroutines: who asks finds out whether the files have changed.
package reload

import (
	"errors"
	"io/fs"
	"sync"

	"go.uber.org/zap"

	"github.com/referee-cri/referee/internal/reason"
)

// Store holds what a trust store's files say. Safe for concurrent use.
type Store[T any] struct {
	look func() string
	read func() (T, error)
	log  *zap.Logger

	mu   sync.Mutex
	seen string // what the files looked like when they were last read, well or not
	now  T      // as last read well
	gone error  // one of the files was taken away: there is no trust until it is back
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
// a half-written file must not stop every pull. A file that is not there is no
// half-written one: somebody withdrew it, and until it is back there is nothing to
// trust, which the error says. The log tells of all three.
func (s *Store[T]) Current() (T, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if seen := s.look(); seen != s.seen {
		s.seen = seen
		s.again()
	}
	if s.gone != nil {
		var none T
		return none, s.gone
	}
	return s.now, nil
}

// again reads the files after they have changed. The caller holds s.mu.
func (s *Store[T]) again() {
	next, err := s.read()
	switch {
	case err == nil:
		s.log.Info("trust store read again")
		s.now, s.gone = next, nil
	case errors.Is(err, fs.ErrNotExist):
		s.log.Error("trust store trusts nobody: a file of it was taken away", zap.Error(err))
		s.gone = reason.Errorf(reason.SignatureUntrusted, "the trust store's file was taken away: %w", err)
	case s.gone != nil:
		s.log.Error("trust store still trusts nobody: its files cannot be used", zap.Error(err))
	default:
		s.log.Warn("trust store kept as it was: its files cannot be used", zap.Error(err))
	}
}

package plainlayer

import (
	"crypto/sha256"
	"hash"

	"github.com/referee-cri/referee/lazyblock/format/span"
)

// summer hashes spans of a stream, which begin where they are cut or, where nobody
// cuts, every spanSize bytes.
type summer struct {
	cuts []int64 // where spans begin, as far as that is known
	at   int64
	hash hash.Hash
	sums span.Digests
}

// cut has a span begin at an offset that has not been written yet.
func (s *summer) cut(at int64) { s.cuts = append(s.cuts, at) }

func (s *summer) write(p []byte) {
	for len(p) > 0 {
		if s.hash == nil {
			s.hash = sha256.New()
		}
		n := len(p)
		if end := s.end(); end > 0 {
			if end == s.at {
				s.close()
				continue
			}
			n = int(min(int64(n), end-s.at))
		}
		_, _ = s.hash.Write(p[:n]) // never fails
		p, s.at = p[n:], s.at+int64(n)
	}
}

// end is where the span in hand ends, 0 where that is not known.
func (s *summer) end() int64 {
	next := len(s.sums) + 1
	switch {
	case len(s.cuts) == 0:
		return int64(next) * spanSize
	case next < len(s.cuts):
		return s.cuts[next]
	default:
		return 0
	}
}

func (s *summer) close() {
	s.sums = append(s.sums, [sha256.Size]byte(s.hash.Sum(nil)))
	s.hash.Reset()
}

func (s *summer) finish() span.Digests {
	if s.at > 0 {
		s.close()
	}
	return s.sums
}

package refpattern

import (
	"encoding/binary"
	"slices"
)

// maxEffort bounds how many transitions one question to [Covers] may follow:
// tens of milliseconds. Patterns that people write need some thousands.
const maxEffort = 1 << 20

// Covers tells whether whatever p matches is matched by one of others as well.
// The answer is exact over all texts, but for patterns made to be hard, where it
// gives up and is false: true can be relied upon.
func Covers(others []Pattern, p Pattern) bool {
	var union automaton
	for _, other := range others {
		if other.mayMeet(p) {
			union = append(union, other.machine...)
		}
	}
	s := search{inner: p.machine, outer: union, alphabet: alphabet(p.machine, union), seen: map[string]bool{}}
	return s.covered()
}

// alphabet returns a slash, every byte that one of the patterns names, and one
// that none of them does, which stands for all the others.
func alphabet(automata ...automaton) []byte {
	named := [256]bool{'/': true}
	for _, a := range automata {
		for _, t := range a {
			if t.literal() {
				named[t] = true
			}
		}
	}
	var all []byte
	stranger := false
	for c, is := range named {
		if is || !stranger {
			all = append(all, byte(c))
		}
		stranger = stranger || !is
	}
	return all
}

// search walks the product of inner, a state at a time, and outer, all its states
// at once, looking for an end of inner that is no end of outer.
type search struct {
	inner, outer automaton
	alphabet     []byte
	seen         map[string]bool
	todo         []pair
	effort       int
}

type pair struct {
	inner int
	outer []int
}

func (s *search) covered() bool {
	s.visit(0, s.outer.start())
	var next []int
	for len(s.todo) > 0 {
		at := s.todo[len(s.todo)-1]
		s.todo = s.todo[:len(s.todo)-1]
		switch t := s.inner[at.inner]; {
		case len(at.outer) == 0: // inner always goes on to its end
			return false
		case t == accept:
			if !s.outer.accepts(at.outer) {
				return false
			}
		case t.literal():
			s.visit(at.inner+1, s.outer.step(at.outer, byte(t), nil))
		default:
			s.visit(at.inner+1, at.outer)
			for _, c := range s.alphabet {
				if t.stays(c) {
					next = s.outer.step(at.outer, c, next)
					s.effort += len(at.outer)
					s.visit(at.inner, next)
				}
			}
		}
		if s.effort++; s.effort > maxEffort {
			return false
		}
	}
	return true
}

// visit puts a pair that was not met yet on the list. It keeps a copy of outer.
func (s *search) visit(inner int, outer []int) {
	if s.outer.acceptsAll(outer) {
		return
	}
	key := binary.AppendUvarint(nil, uint64(inner)) //nolint:gosec // a position
	for _, state := range outer {
		key = binary.AppendUvarint(key, uint64(state)) //nolint:gosec // a position
	}
	if s.seen[string(key)] {
		return
	}
	s.seen[string(key)] = true
	s.todo = append(s.todo, pair{inner, slices.Clone(outer)})
}

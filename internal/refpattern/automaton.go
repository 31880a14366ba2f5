package refpattern

import "slices"

// token is a step of a pattern: a byte that stands for itself, or one of the
// values below.
type token int16

const (
	anyShallow token = 256 + iota // "*": stays on every byte but a slash
	anyDeep                       // "**": stays on every byte
	accept                        // the end of a pattern
)

func (t token) literal() bool { return t < anyShallow }

// stays tells whether a wildcard consumes c.
func (t token) stays(c byte) bool { return t == anyDeep || t == anyShallow && c != '/' }

// automaton is a nondeterministic one: its states are the positions in it. It may
// hold several patterns one after the other, each ended by accept, of which any
// may match.
type automaton []token

// newAutomaton reads a pattern. A run of asterisks is one wildcard: "***" says no
// more than "**".
func newAutomaton(text string) automaton {
	a := make(automaton, 0, len(text)+1)
	for i := 0; i < len(text); i++ {
		if text[i] != '*' {
			a = append(a, token(text[i]))
			continue
		}
		first := i
		for i+1 < len(text) && text[i+1] == '*' {
			i++
		}
		if i == first {
			a = append(a, anyShallow)
		} else {
			a = append(a, anyDeep)
		}
	}
	return append(a, accept)
}

// enter adds state and those reached from it without consuming anything.
func (a automaton) enter(states []int, state int) []int {
	for ; a[state] == anyShallow || a[state] == anyDeep; state++ {
		states = append(states, state)
	}
	return append(states, state)
}

// start returns the states before anything was consumed, sorted.
func (a automaton) start() []int {
	var states []int
	for i := range a {
		if i == 0 || a[i-1] == accept {
			states = a.enter(states, i)
		}
	}
	return states
}

// step returns into the storage of next, sorted and once each, the states after c.
func (a automaton) step(states []int, c byte, next []int) []int {
	next = next[:0]
	for _, s := range states {
		switch t := a[s]; {
		case t == token(c):
			next = a.enter(next, s+1)
		case t.stays(c):
			next = a.enter(next, s)
		}
	}
	slices.Sort(next)
	return slices.Compact(next)
}

// accepts tells whether one of the states is the end of a pattern.
func (a automaton) accepts(states []int) bool {
	return slices.ContainsFunc(states, func(s int) bool { return a[s] == accept })
}

// acceptsAll tells whether whatever follows will be matched from these states.
func (a automaton) acceptsAll(states []int) bool {
	return slices.ContainsFunc(states, func(s int) bool { return a[s] == anyDeep && a[s+1] == accept })
}

func (a automaton) match(text string) bool {
	states, next := a.start(), make([]int, 0, len(a))
	for i := 0; i < len(text) && len(states) > 0; i++ {
		states, next = a.step(states, text[i], next), states
	}
	return a.accepts(states)
}

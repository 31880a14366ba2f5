// Package refpattern is the pattern language of the configuration: "*" stands
// for any run of characters without a slash, "**" for any run at all, everything
// else for itself. It tells what a pattern matches, which of two patterns is the
// more specific, and whether patterns leave anything of another to match.
//
// Patterns are compared with text as it is; what that text is (a repository, a
// full reference) is the caller's matter. The package starts no goroutine and
// keeps nothing between calls.
package refpattern

import (
	"cmp"
	"slices"
	"strings"
)

// Pattern is one pattern. It does not change and is safe for concurrent use. The
// zero value is not useful: begin with [Compile].
type Pattern struct {
	text     string
	prefix   string // what stands before the first wildcard
	literals int    // characters that stand for themselves, in bytes
	deep     int    // how many "**"
	machine  automaton
}

// Compile readies text for matching. Every text is a pattern.
func Compile(text string) Pattern {
	p := Pattern{text: text, machine: newAutomaton(text)}
	for i, t := range p.machine {
		switch {
		case t.literal():
			p.literals++
			if i == len(p.prefix) {
				p.prefix = text[:i+1]
			}
		case t == anyDeep:
			p.deep++
		}
	}
	return p
}

// String returns the text that was compiled.
func (p Pattern) String() string { return p.text }

// Exact tells whether the pattern has no wildcard.
func (p Pattern) Exact() bool { return p.literals == len(p.machine)-1 }

// Match tells whether the pattern matches the whole of text. It takes time
// proportional to the product of both lengths at most.
func (p Pattern) Match(text string) bool {
	return strings.HasPrefix(text, p.prefix) && p.machine.match(text)
}

// Compare returns a negative number where p is more specific than q, a positive
// one where q is, and 0 where neither is. A pattern without a wildcard comes
// first, then the one with the longer text before its first wildcard, then the one
// with more characters that stand for themselves, then the one with fewer "**".
func (p Pattern) Compare(q Pattern) int {
	return cmp.Or(
		compareBool(q.Exact(), p.Exact()),
		cmp.Compare(len(q.prefix), len(p.prefix)),
		cmp.Compare(q.literals, p.literals),
		cmp.Compare(p.deep, q.deep),
	)
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	default:
		return -1
	}
}

// Same tells whether both are the same pattern, however many asterisks in a row
// they were written with.
func (p Pattern) Same(q Pattern) bool { return slices.Equal(p.machine, q.machine) }

// mayMeet is false where no text can be matched by both.
func (p Pattern) mayMeet(q Pattern) bool {
	n := min(len(p.prefix), len(q.prefix))
	return p.prefix[:n] == q.prefix[:n]
}

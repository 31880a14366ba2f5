// Package policy makes a negotiate.Policy of an operator's blocks: which block
// holds for a repository, and what is wrong with the blocks together.
//
// It owns the order in which blocks win (the most specific pattern, whole blocks,
// never merged), the findings about blocks that contradict each other or can never
// hold, and trust stores that could not be loaded yet. It never reads the
// configuration's file and never judges an image: negotiate does that by the Rules.
//
// Goroutines: none. A Policy does not change after it was compiled.
package policy

import (
	"slices"

	"github.com/referee-cri/referee/internal/refpattern"
	"github.com/referee-cri/referee/negotiate"
)

// Block is what the operator says about the repositories that one of Match
// matches more specifically than the patterns of other blocks do.
type Block struct {
	Match []string // patterns of repositories; empty: every repository
	// Rules hold where the block does, whole. Compile sets their Name and Verifiers.
	Rules negotiate.Rules
	// Trust names the trust stores whose signatures count.
	Trust []string
	// Written are the keys besides match and formats that the operator gave a value.
	Written []string
}

// Policy is compiled blocks. It is safe for concurrent use.
type Policy struct {
	blocks   []Block
	patterns []rule // the most specific first
	builtin  negotiate.Rules
}

// rule is one pattern of a block.
type rule struct {
	refpattern.Pattern
	block, position int
}

var _ negotiate.Policy = (*Policy)(nil)

// Compile readies blocks. builtin holds where none of them does. trust has the
// verifiers by name; a block that names one which is not there trusts it in vain.
func Compile(blocks []Block, builtin negotiate.Rules, trust map[string]negotiate.Verifier) *Policy {
	p := &Policy{blocks: slices.Clone(blocks), builtin: builtin, patterns: rules(blocks)}
	for i := range p.blocks {
		b := &p.blocks[i]
		b.Rules.Name = b.patterns()[0]
		b.Rules.Verifiers = nil
		for _, name := range b.Trust {
			if verifier, ok := trust[name]; ok {
				b.Rules.Verifiers = append(b.Rules.Verifiers, verifier)
			}
		}
	}
	return p
}

// Rules returns what holds for a repository. Never nil.
func (p *Policy) Rules(repository string) *negotiate.Rules {
	if block, _, found := p.Find(repository); found {
		return &p.blocks[block].Rules
	}
	return &p.builtin
}

// Find returns the position of the block that holds for a repository, and the
// pattern that decided so.
func (p *Policy) Find(repository string) (block int, pattern string, found bool) {
	for i := range p.patterns {
		if r := &p.patterns[i]; r.Match(repository) {
			return r.block, r.String(), true
		}
	}
	return 0, "", false
}

// patterns are those of Match, or the one that matches everything.
func (b *Block) patterns() []string {
	if len(b.Match) == 0 {
		return []string{"**"}
	}
	return b.Match
}

// rules returns the patterns of all blocks, the most specific first and the
// earlier of two that are as specific as each other.
func rules(blocks []Block) []rule {
	var all []rule
	for i := range blocks {
		for j, text := range blocks[i].patterns() {
			all = append(all, rule{refpattern.Compile(text), i, j})
		}
	}
	slices.SortStableFunc(all, func(a, b rule) int { return a.Compare(b.Pattern) })
	return all
}

package policy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/referee-cri/referee/internal/refpattern"
	"github.com/referee-cri/referee/negotiate"
)

// Severity says how bad a finding is.
type Severity string

// The severities.
const (
	Error   Severity = "error"   // something the operator wrote can have no effect, or forbids what it is about
	Warning Severity = "warning" // it works, though perhaps not as meant
)

// Finding is something about the blocks that an operator should know.
type Finding struct {
	Severity Severity `json:"severity"`
	Key      string   `json:"key"`     // "policy[1].match[0]"; as in errors of configs
	Problem  string   `json:"problem"` // one sentence
}

// Surroundings are what the blocks are looked at together with.
type Surroundings struct {
	Trust    []string // names of the trust stores that are defined
	Disabled []string // patterns of references for which nothing is prepared
	Readers  []string // formats that this version can read
	InPlace  []string // formats that stand in the image itself
}

// Lint looks for blocks that contradict themselves or each other, or that can
// never hold, and returns what it found in the order of the blocks. Each block's
// keys must be valid for themselves.
func Lint(blocks []Block, in Surroundings) []Finding {
	var all findings
	ordered := rules(blocks)
	for i := range blocks {
		all.reach(i, blocks, ordered, in.Disabled)
		all.effect(i, &blocks[i], in)
	}
	all.unusedTrust(blocks, in.Trust)
	return all
}

type findings []Finding

func (f *findings) add(severity Severity, key, format string, args ...any) {
	*f = append(*f, Finding{severity, key, fmt.Sprintf(format, args...)})
}

// effect looks at what a block says about the images it holds for.
func (f *findings) effect(i int, b *Block, in Surroundings) {
	key := func(name string) string { return fmt.Sprintf("policy[%d].%s", i, name) }
	formats := b.Rules.Formats
	if formats != nil && len(formats) == 0 {
		if len(b.Written) > 0 {
			f.add(Warning, key("formats"), "no form is allowed, which leaves no meaning to %s", strings.Join(b.Written, ", "))
		}
		return
	}
	if formats != nil && !intersect(formats, in.Readers) {
		f.add(Warning, key("formats"), "this version reads none of %s, so every pull is an ordinary one", strings.Join(formats, ", "))
	}
	required, signedOnly := b.Rules.RequireSignature, b.Rules.ForeignFilesystems == negotiate.ForeignSignedOnly
	if len(b.Trust) == 0 && required {
		f.add(Error, key("require_signature"), "nobody is trusted: name [[trust]] blocks in trust, or no form will ever pass")
	}
	if len(b.Trust) == 0 && signedOnly {
		f.add(Error, key("foreign_filesystems"), "nobody is trusted: name [[trust]] blocks in trust, or say \"deny\"")
	}
	if len(b.Trust) > 0 && !required && !signedOnly {
		f.add(Warning, key("trust"), "nothing in this block asks for a signature: neither require_signature nor foreign_filesystems = \"signed-only\"")
	}
	if required && formats != nil && subset(formats, in.InPlace) {
		f.add(Warning, key("require_signature"), "%s stands in the image itself, so it is the image that must be signed", strings.Join(formats, ", "))
	}
}

func (f *findings) unusedTrust(blocks []Block, defined []string) {
	for i, name := range defined {
		if !slices.ContainsFunc(blocks, func(b Block) bool { return slices.Contains(b.Trust, name) }) {
			f.add(Warning, fmt.Sprintf("trust[%d]", i), "no [[policy]] block names %q", name)
		}
	}
}

// reach looks for patterns that never decide anything, and whether that makes
// the whole block one that never holds.
func (f *findings) reach(i int, blocks []Block, ordered []rule, disabled []string) {
	key := fmt.Sprintf("policy[%d].match", i)
	texts := blocks[i].patterns()
	own, problems := make([]refpattern.Pattern, len(texts)), make([]Finding, len(texts))
	dead := 0
	for at, r := range ordered {
		if r.block != i {
			continue
		}
		own[r.position] = r.Pattern
		severity, problem := neverDecides(at, ordered)
		problems[r.position] = Finding{severity, fmt.Sprintf("%s[%d]", key, r.position), problem}
		if severity == Error {
			dead++
		}
	}
	for _, p := range problems {
		if p.Problem != "" {
			*f = append(*f, p)
		}
	}
	switch {
	case dead == len(own) && len(own) > 1:
		f.add(Error, key, "this block never holds: none of its patterns decides anything")
	case dead < len(own) && len(disabled) > 0 && allCovered(own, withImpossible(compile(disabled))):
		f.add(Warning, key, "this block never holds: \"disabled\" names all it matches")
	}
}

// neverDecides says why a pattern decides about no repository: in words, "" where
// it does decide.
func neverDecides(at int, ordered []rule) (severity Severity, problem string) {
	r := ordered[at]
	for _, earlier := range ordered[:at] {
		if !earlier.Same(r.Pattern) {
			continue
		}
		if earlier.block == r.block {
			return Warning, fmt.Sprintf("%q is there twice", r)
		}
		return Error, fmt.Sprintf("%q stands in policy[%d] already, which comes first and wins", r, earlier.block)
	}
	if refpattern.Covers(impossible(), r.Pattern) {
		return Error, fmt.Sprintf("%q matches no repository: those are named host/path, in full", r)
	}
	var winners []refpattern.Pattern
	for _, earlier := range ordered[:at] {
		if earlier.block != r.block {
			winners = append(winners, earlier.Pattern)
		}
	}
	if !refpattern.Covers(withImpossible(winners), r.Pattern) {
		return "", ""
	}
	return Error, fmt.Sprintf("%q never decides: all it matches is matched by the more specific %s", r, named(needed(winners, r.Pattern)))
}

// needed drops winners without which the others still cover p. Many are left as
// they are: to try is a question for each.
func needed(winners []refpattern.Pattern, p refpattern.Pattern) []refpattern.Pattern {
	const most = 64
	if len(winners) > most {
		return winners
	}
	for i := 0; i < len(winners); {
		without := slices.Delete(slices.Clone(winners), i, i+1)
		if refpattern.Covers(withImpossible(without), p) {
			winners = without
		} else {
			i++
		}
	}
	return winners
}

// named lists patterns, a few of them.
func named(patterns []refpattern.Pattern) string {
	const most = 4
	var texts []string
	for _, p := range patterns[:min(len(patterns), most)] {
		texts = append(texts, fmt.Sprintf("%q", p))
	}
	if len(patterns) > most {
		texts = append(texts, fmt.Sprintf("%d more", len(patterns)-most))
	}
	return strings.Join(texts, ", ")
}

// impossible are patterns of names that no repository has (distribution/reference):
// without a path, or with an empty part in it.
func impossible() []refpattern.Pattern { return compile([]string{"*", "/**", "**/", "**//**"}) }

func withImpossible(patterns []refpattern.Pattern) []refpattern.Pattern {
	return append(impossible(), patterns...)
}

func compile(texts []string) []refpattern.Pattern {
	var all []refpattern.Pattern
	for _, text := range texts {
		all = append(all, refpattern.Compile(text))
	}
	return all
}

func allCovered(patterns, by []refpattern.Pattern) bool {
	return !slices.ContainsFunc(patterns, func(p refpattern.Pattern) bool { return !refpattern.Covers(by, p) })
}

func intersect(a, b []string) bool {
	return slices.ContainsFunc(a, func(s string) bool { return slices.Contains(b, s) })
}

func subset(a, b []string) bool {
	return !slices.ContainsFunc(a, func(s string) bool { return !slices.Contains(b, s) })
}

package fallback

import (
	"github.com/distribution/reference"

	"github.com/referee-cri/referee/internal/refpattern"
)

// Patterns are the references a configuration names. A pattern is compared with
// the full reference and with its repository, so one without a tag or digest means
// all of them.
type Patterns []refpattern.Pattern

// CompilePatterns readies patterns for matching. Every text is a pattern.
func CompilePatterns(texts []string) Patterns {
	var all Patterns
	for _, text := range texts {
		all = append(all, refpattern.Compile(text))
	}
	return all
}

// Match returns the text of the first pattern that matches.
func (p Patterns) Match(named reference.Named) (text string, found bool) {
	for _, one := range p {
		if one.Match(named.String()) || one.Match(named.Name()) {
			return one.String(), true
		}
	}
	return "", false
}

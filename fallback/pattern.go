package fallback

import (
	"regexp"
	"strings"

	"github.com/distribution/reference"
)

// Patterns are the references a configuration names. "*" stands for any run
// of characters without a slash, "**" for any run at all, everything else for
// itself. A pattern is compared with the full reference and with its repository,
// so one without a tag or digest means all of them.
type Patterns []pattern

type pattern struct {
	text    string
	matches *regexp.Regexp
}

// CompilePatterns readies patterns for matching. Every text is a pattern.
func CompilePatterns(texts []string) Patterns {
	var all Patterns
	for _, text := range texts {
		quoted := regexp.QuoteMeta(strings.ToValidUTF8(text, "\uFFFD"))
		quoted = strings.ReplaceAll(quoted, `\*\*`, `.*`)
		quoted = strings.ReplaceAll(quoted, `\*`, `[^/]*`)
		all = append(all, pattern{text, regexp.MustCompile(`\A(?s:` + quoted + `)\z`)})
	}
	return all
}

// Match returns the text of the first pattern that matches.
func (p Patterns) Match(named reference.Named) (text string, found bool) {
	for _, one := range p {
		if one.matches.MatchString(named.String()) || one.matches.MatchString(named.Name()) {
			return one.text, true
		}
	}
	return "", false
}

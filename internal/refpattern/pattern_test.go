package refpattern_test

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/referee-cri/referee/internal/refpattern"
)

func TestMatch(t *testing.T) {
	t.Parallel()
	for pattern, tc := range map[string]struct{ matches, others []string }{
		"registry.example/app":     {[]string{"registry.example/app"}, []string{"registry.example/application", "registry.example/ap", ""}},
		"registry.example/team/*":  {[]string{"registry.example/team/app", "registry.example/team/"}, []string{"registry.example/team/app/part", "registry.example/app"}},
		"registry.example/**":      {[]string{"registry.example/a", "registry.example/a/b/c"}, []string{"registry.example.org/a"}},
		"registry.example/**/base": {[]string{"registry.example/a/base", "registry.example/a/b/base"}, []string{"registry.example/base", "registry.example/a/based"}},
		"*.example/app":            {[]string{"registry.example/app"}, []string{"registry-example/app", "registry.example/x/app"}},
		"*/*/app-*":                {[]string{"r/a/app-1", "r/a/app-"}, []string{"r/app-1", "r/a/b/app-1", "r/a/app-1/x"}},
		"a*a*a":                    {[]string{"aaa", "abaaca"}, []string{"aa", "aba", "aaab"}},
		"**":                       {[]string{"", "a", "a/b"}, nil},
		"*":                        {[]string{"", "a"}, []string{"/", "a/b"}},
		"a***":                     {[]string{"a", "a/b"}, []string{"b"}},
		"":                         {[]string{""}, []string{"a"}},
		"a+(b.":                    {[]string{"a+(b."}, []string{"aab."}},
	} {
		compiled := refpattern.Compile(pattern)
		for want, texts := range map[bool][]string{true: tc.matches, false: tc.others} {
			for _, text := range texts {
				if got := compiled.Match(text); got != want {
					t.Errorf("%q matches %q: %v", pattern, text, got)
				}
			}
		}
	}
}

func TestCompareOrdersBySpecificity(t *testing.T) {
	t.Parallel()
	want := []string{
		"registry.example/team/app",
		"registry.example/team/**/x*",
		"registry.example/team/*/*",
		"registry.example/team/*",
		"registry.example/team/**",
		"registry.example/team**",
		"registry.example/*/app",
		"registry.example/**",
		"*.example/**",
		"*/**",
		"*",
		"**",
	}
	shuffled := slices.Clone(want)
	rand.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
	slices.SortStableFunc(shuffled, func(a, b string) int { return refpattern.Compile(a).Compare(refpattern.Compile(b)) })
	if diff := cmp.Diff(want, shuffled); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
	if a, b := refpattern.Compile("a/**"), refpattern.Compile("a/***"); a.Compare(b) != 0 || !a.Same(b) {
		t.Error("asterisks beyond the second count")
	}
	if a, b := refpattern.Compile("a/*x*y"), refpattern.Compile("a/*y*x"); a.Compare(b) != 0 || a.Same(b) {
		t.Error("patterns as specific as each other are the same, or are not as specific")
	}
}

func TestCovers(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		others  string // separated by spaces
		pattern string
		want    bool
	}{
		{"registry.example/**", "registry.example/team/*", true},
		{"registry.example/team/*", "registry.example/**", false},
		{"registry.example/*", "registry.example/a/b", false},
		{"registry.example/**", "registry.example/**", true},
		{"registry.example/*", "registry.example/**", false},
		{"registry.example/* registry.example/**/**", "registry.example/**", true},
		{"registry.example/* registry.example/*/*", "registry.example/**", false},
		{"**/app", "registry.example/*/app", true},
		{"**app", "**/app*", false},
		{"a*b", "a*b*b", true},
		{"a*b*b", "a*b", false},
		{"*a* *b*", "*", false},
		{"* **/**", "**", true},
		{"**", "", true},
		{"", "*", false},
		{"", "", true},
		{"**a**b** **b**a**", "**a**b**", true},
	} {
		var others []refpattern.Pattern
		for text := range strings.SplitSeq(tc.others, " ") {
			others = append(others, refpattern.Compile(text))
		}
		if got := refpattern.Covers(others, refpattern.Compile(tc.pattern)); got != tc.want {
			t.Errorf("%q covers %q: %v", tc.others, tc.pattern, got)
		}
	}
	if refpattern.Covers(nil, refpattern.Compile("")) {
		t.Error("nothing covers something")
	}
}

// TestCoversIsExact compares with every text that may tell short patterns apart:
// three tokens cannot count beyond what six characters show.
func TestCoversIsExact(t *testing.T) {
	t.Parallel()
	texts := words([]string{"a", "/", "x"}, 6)
	var patterns []refpattern.Pattern
	matched := map[string]map[string]bool{}
	for _, text := range words([]string{"a", "/", "*", "**"}, 3) {
		if strings.Contains(text, "***") {
			continue
		}
		p := refpattern.Compile(text)
		if slices.ContainsFunc(patterns, p.Same) {
			continue
		}
		patterns = append(patterns, p)
		matched[text] = map[string]bool{}
		for _, candidate := range texts {
			if p.Match(candidate) {
				matched[text][candidate] = true
			}
		}
	}
	check := func(p refpattern.Pattern, others ...refpattern.Pattern) {
		counterexample := ""
		covered := true
		for text := range matched[p.String()] {
			if !slices.ContainsFunc(others, func(q refpattern.Pattern) bool { return matched[q.String()][text] }) {
				covered, counterexample = false, text
				break
			}
		}
		if got := refpattern.Covers(others, p); got != covered {
			t.Errorf("%q covers %q: %v, counterexample %q", others, p, got, counterexample)
		}
	}
	for _, p := range patterns {
		for _, q := range patterns {
			check(p, q)
		}
	}
	random := rand.New(rand.NewPCG(1, 2))
	for range 3000 {
		pick := func() refpattern.Pattern { return patterns[random.IntN(len(patterns))] }
		check(pick(), pick(), pick(), pick())
	}
}

// words returns every text of up to n of the given parts.
func words(parts []string, n int) []string {
	all := []string{""}
	for first, length := 0, 0; length < n; length++ {
		last := len(all)
		for _, word := range all[first:last] {
			for _, part := range parts {
				all = append(all, word+part)
			}
		}
		first = last
	}
	return all
}

// Subset construction of "the tenth segment from the end is x" has 1024 states.
func TestCoversGivesUpOnHardPatterns(t *testing.T) {
	t.Parallel()
	hard := "**/x" + strings.Repeat("/*", 30)
	if refpattern.Covers([]refpattern.Pattern{refpattern.Compile(hard), refpattern.Compile("**/y" + strings.Repeat("/*", 30))}, refpattern.Compile("**/a"+strings.Repeat("*/", 31))) {
		t.Error("covered")
	}
	if !refpattern.Covers([]refpattern.Pattern{refpattern.Compile("**/*")}, refpattern.Compile(hard)) {
		t.Error("a simple question about a hard pattern has no answer")
	}
}

// FuzzMatch compares with regular expressions.
func FuzzMatch(f *testing.F) {
	f.Add("registry.example/**", "registry.example/a/b:1")
	f.Add(`\Q*\E[`, "redis")
	f.Add("a**b*/***c", "a//b/c")
	f.Fuzz(func(t *testing.T, pattern, text string) {
		if strings.ContainsFunc(pattern+text, func(r rune) bool { return r > 127 }) {
			return // the expression reads runes
		}
		quoted := strings.ReplaceAll(regexp.QuoteMeta(pattern), `\*\*`, `.*`)
		expression := regexp.MustCompile(`\A(?s:` + strings.ReplaceAll(quoted, `\*`, `[^/]*`) + `)\z`)
		if got, want := refpattern.Compile(pattern).Match(text), expression.MatchString(text); got != want {
			t.Errorf("%q matches %q: %v, a regular expression says %v", pattern, text, got, want)
		}
	})
}

// FuzzCovers makes texts that pattern matches by filling its wildcards, and wants
// them matched by what is said to cover it.
func FuzzCovers(f *testing.F) {
	f.Add("registry.example/**", "registry.example/*", "registry.example/**/**", uint64(1))
	f.Add("a*b*b", "a*b", "b", uint64(2))
	f.Add("*", "**", "", uint64(3))
	f.Fuzz(func(t *testing.T, pattern, other, another string, seed uint64) {
		if len(pattern)+len(other)+len(another) > 200 {
			return
		}
		p, others := refpattern.Compile(pattern), []refpattern.Pattern{refpattern.Compile(other), refpattern.Compile(another)}
		if !refpattern.Covers([]refpattern.Pattern{p}, p) && len(pattern) < 20 {
			t.Errorf("%q does not cover itself", pattern)
		}
		covered := refpattern.Covers(others, p)
		random := rand.New(rand.NewPCG(seed, 0))
		for range 50 {
			text := fill(pattern, other+another+"/x", random)
			if !p.Match(text) {
				t.Fatalf("%q does not match %q, made from it", pattern, text)
			}
			if covered && !others[0].Match(text) && !others[1].Match(text) {
				t.Fatalf("%q and %q cover %q but do not match %q", other, another, pattern, text)
			}
		}
	})
}

// fill puts short runs of the bytes of from in the place of wildcards.
func fill(pattern, from string, random *rand.Rand) string {
	var text strings.Builder
	for i := 0; i < len(pattern); i++ {
		if pattern[i] != '*' {
			text.WriteByte(pattern[i])
			continue
		}
		deep := strings.HasPrefix(pattern[i:], "**")
		for range random.IntN(4) {
			if c := from[random.IntN(len(from))]; deep || c != '/' {
				text.WriteByte(c)
			}
		}
		if deep {
			i++
		}
	}
	return text.String()
}

func ExampleCovers() {
	base, one, more := refpattern.Compile("registry.example/**"), refpattern.Compile("registry.example/*"), refpattern.Compile("registry.example/**/**")
	fmt.Println(refpattern.Covers([]refpattern.Pattern{one}, base), refpattern.Covers([]refpattern.Pattern{one, more}, base))
	// Output: false true
}

func BenchmarkMatch(b *testing.B) {
	p := refpattern.Compile("registry.example/team/**/app-*")
	for b.Loop() {
		p.Match("registry.example/team/one/two/app-three")
	}
}

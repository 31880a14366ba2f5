package policy_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/referee-cri/referee/negotiate"
	"github.com/referee-cri/referee/negotiate/policy"
)

func match(patterns ...string) policy.Block { return policy.Block{Match: patterns} }

func TestTheMostSpecificBlockHolds(t *testing.T) {
	t.Parallel()
	p := policy.Compile([]policy.Block{
		match(),                           // 0
		match("registry.example/**"),      // 1
		match("registry.example/team/**"), // 2
		match("registry.example/*/app", "registry.example/team/base"), // 3
		match("registry.example/team/*"),                              // 4
		match("*.example/**"),                                         // 5
		match("registry.example/a*/x-*"),                              // 6
		match("registry.example/a*/*-y"),                              // 7: as specific as 6, later
		match("registry.example/team/***"),                            // 8: the same as 2, later
	}, negotiate.Rules{}, nil)
	for repository, want := range map[string]int{
		"docker.io/library/redis":         0,
		"registry.example/a":              1,
		"registry.example/other/app":      3,
		"registry.example/team/app":       4,
		"registry.example/team/base":      3,
		"registry.example/team/base/deep": 2,
		"other.example/team/app":          5,
		"registry.example/ab/x-y":         6,
		"registry.example/ab/z-y":         7,
	} {
		got, pattern, found := p.Find(repository)
		if !found || got != want {
			t.Errorf("%s: block %d by %q, want %d", repository, got, pattern, want)
		}
	}
}

func TestBlocksHoldWhole(t *testing.T) {
	t.Parallel()
	release, ci := policy.Loaded("release", broken, nopLog()), policy.Loaded("ci", broken, nopLog())
	builtin := negotiate.Rules{MinSize: 8}
	p := policy.Compile([]policy.Block{
		{Match: []string{"r.example/**"}, Rules: negotiate.Rules{MinSize: 1, RequireSignature: true, LegacyORAS: negotiate.LegacyOn}, Trust: []string{"ci", "release"}},
		{Match: []string{"r.example/a", "r.example/b"}, Rules: negotiate.Rules{Formats: []string{}}, Trust: []string{"absent"}},
	}, builtin, map[string]negotiate.Verifier{"release": release, "ci": ci})

	wide, narrow, none := p.Rules("r.example/c"), p.Rules("r.example/b"), p.Rules("other.example/a")
	if wide.Name != "r.example/**" || wide.MinSize != 1 || !wide.RequireSignature || wide.LegacyORAS != negotiate.LegacyOn {
		t.Errorf("wide block: %+v", wide)
	}
	if len(wide.Verifiers) != 2 || wide.Verifiers[0] != ci || wide.Verifiers[1] != release {
		t.Errorf("verifiers are not those named, in their order: %v", wide.Verifiers)
	}
	if narrow.Name != "r.example/a" || narrow.MinSize != 0 || narrow.RequireSignature || narrow.Formats == nil || len(narrow.Verifiers) != 0 {
		t.Errorf("the narrow block took something from elsewhere: %+v", narrow)
	}
	if none.Name != "" || none.MinSize != 8 {
		t.Errorf("where no block matches: %+v", none)
	}
}

func ExamplePolicy_Find() {
	p := policy.Compile([]policy.Block{
		{Match: []string{"registry.example/**"}},
		{Match: []string{"registry.example/team/**"}},
	}, negotiate.Rules{}, nil)
	fmt.Println(p.Find("registry.example/team/app"))
	// Output: 1 registry.example/team/** true
}

func BenchmarkRules(b *testing.B) {
	var blocks []policy.Block
	for i := range 500 {
		blocks = append(blocks, match(fmt.Sprintf("registry.example/team-%d/**", i)))
	}
	p := policy.Compile(append(blocks, match()), negotiate.Rules{}, nil)
	for b.Loop() {
		p.Rules("registry.example/team-499x/app")
	}
}

func TestLint(t *testing.T) {
	t.Parallel()
	signed := negotiate.Rules{RequireSignature: true}
	all := policy.Surroundings{Readers: []string{"overlaybd", "estargz"}, InPlace: []string{"estargz", "zstdchunked"}}
	for name, tc := range map[string]struct {
		blocks []policy.Block
		in     policy.Surroundings
		want   []string // "severity key: part of the problem"
	}{
		"nothing": {nil, all, nil},
		"sound blocks": {[]policy.Block{
			match(), match("r.example/**"), match("r.example/team/**", "s.example/*"),
			{Match: []string{"t.example/**"}, Rules: signed, Trust: []string{"a"}},
		}, policy.Surroundings{Trust: []string{"a"}, Disabled: []string{"r.example/team/*", "s.example/app:1"}, Readers: all.Readers, InPlace: all.InPlace}, nil},
		"same pattern in two blocks": {
			[]policy.Block{match("a.example/x"), match("r.example/**"), match("a.example/y", "r.example/***")},
			all,
			[]string{`error policy[2].match[1]: "r.example/***" stands in policy[1] already`},
		},
		"same pattern in one block": {
			[]policy.Block{match("r.example/a", "r.example/a")},
			all,
			[]string{`warning policy[0].match[1]: "r.example/a" is there twice`},
		},
		"two blocks for all": {
			[]policy.Block{match(), match("**")},
			all,
			[]string{`error policy[1].match[0]: "**" stands in policy[0] already`},
		},
		"covered by two together": {
			[]policy.Block{match("r.example/**"), match("r.example/*"), match("r.example/**/**"), match("r.example/a")},
			all,
			[]string{`error policy[0].match[0]: "r.example/**" never decides: all it matches is matched by the more specific "r.example/**/**", "r.example/*"`},
		},
		"default block covered by all that can be": {
			[]policy.Block{match(), match("*/**")},
			all,
			[]string{`error policy[0].match[0]: "**" never decides: all it matches is matched by the more specific "*/**"`},
		},
		"whole block of several patterns": {
			[]policy.Block{match("r.example/a", "r.example/b"), match("r.example/b", "r.example/a")},
			all,
			[]string{`error policy[1].match[0]: "r.example/b" stands`, `error policy[1].match[1]: "r.example/a" stands`, `error policy[1].match: this block never holds`},
		},
		"no such repository": {
			[]policy.Block{match("r.example", "r.example/", "r.example/a//b", "r.example/ok")},
			all,
			[]string{`error policy[0].match[0]: "r.example" matches no repository`, `error policy[0].match[1]: "r.example/" matches no`, `error policy[0].match[2]: "r.example/a//b" matches no`},
		},
		"disabled as a whole": {
			[]policy.Block{match("r.example/team/*", "r.example/base"), match("r.example/team/x/*")},
			policy.Surroundings{Disabled: []string{"r.example/team/*", "**/base"}, Readers: all.Readers},
			[]string{`warning policy[0].match: this block never holds: "disabled" names all`},
		},
		"nobody is trusted": {
			[]policy.Block{{Match: []string{"r.example/**"}, Rules: negotiate.Rules{RequireSignature: true, ForeignFilesystems: negotiate.ForeignSignedOnly}}},
			all,
			[]string{`error policy[0].require_signature: nobody is trusted`, `error policy[0].foreign_filesystems: nobody is trusted`},
		},
		"trusted in vain": {
			[]policy.Block{{Trust: []string{"a"}}},
			policy.Surroundings{Trust: []string{"a", "b"}},
			[]string{`warning policy[0].trust: nothing in this block asks for a signature`, `warning trust[1]: no [[policy]] block names "b"`},
		},
		"no form, and keys about forms": {
			[]policy.Block{{Rules: negotiate.Rules{Formats: []string{}, RequireSignature: true}, Written: []string{"min_size", "require_signature"}}, match("r.example/**")},
			all,
			[]string{`warning policy[0].formats: no form is allowed, which leaves no meaning to min_size, require_signature`},
		},
		"no form": {[]policy.Block{{Rules: negotiate.Rules{Formats: []string{}}}}, all, nil},
		"nothing that can be read": {
			[]policy.Block{{Rules: negotiate.Rules{Formats: []string{"nydus", "soci"}}}, {Match: []string{"r.example/**"}, Rules: negotiate.Rules{Formats: []string{"nydus", "overlaybd"}}}},
			all,
			[]string{`warning policy[0].formats: this version reads none of nydus, soci`},
		},
		"signatures of images": {
			[]policy.Block{{Rules: negotiate.Rules{Formats: []string{"estargz"}, RequireSignature: true}, Trust: []string{"a"}}},
			policy.Surroundings{Trust: []string{"a"}, Readers: all.Readers, InPlace: all.InPlace},
			[]string{`warning policy[0].require_signature: estargz stands in the image itself, so it is the image that must be signed`},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := policy.Lint(tc.blocks, tc.in)
			var lines []string
			for _, f := range got {
				lines = append(lines, fmt.Sprintf("%s %s: %s", f.Severity, f.Key, f.Problem))
			}
			for i := range max(len(lines), len(tc.want)) {
				if i >= len(lines) || i >= len(tc.want) || !strings.HasPrefix(lines[i], tc.want[i]) {
					t.Fatalf("findings (-want +got):\n%s", cmp.Diff(tc.want, lines))
				}
			}
		})
	}
}

// TestLintIsExact compares what is said of short patterns with what they decide
// about every name that could tell them apart.
func TestLintIsExact(t *testing.T) {
	t.Parallel()
	names := words([]string{"a", "/", "x"}, 6)
	names = slices.DeleteFunc(names, func(name string) bool {
		return !strings.Contains(name, "/") || strings.HasPrefix(name, "/") || strings.HasSuffix(name, "/") || strings.Contains(name, "//")
	})
	patterns := words([]string{"a", "/", "*", "**"}, 3)[1:]
	random := rand.New(rand.NewPCG(3, 4))
	pick := func() string { return patterns[random.IntN(len(patterns))] }
	for range 800 {
		checkLint(t, names, pick(), pick(), pick(), pick())
	}
}

// checkLint wants an error for each of patterns, a block each, that decides about
// no name, and for no other.
func checkLint(t *testing.T, names []string, patterns ...string) {
	t.Helper()
	var blocks []policy.Block
	for _, pattern := range patterns {
		blocks = append(blocks, match(pattern))
	}
	p := policy.Compile(blocks, negotiate.Rules{}, nil)
	decides := make([]bool, len(blocks))
	for _, name := range names {
		if i, _, found := p.Find(name); found {
			decides[i] = true
		}
	}
	dead := make([]string, len(blocks))
	for _, finding := range policy.Lint(blocks, policy.Surroundings{}) {
		var i int
		if _, err := fmt.Sscanf(finding.Key, "policy[%d]", &i); err != nil {
			t.Fatalf("finding without a block: %+v", finding)
		}
		dead[i] = finding.Problem
	}
	for i := range blocks {
		if decides[i] == (dead[i] != "") {
			t.Errorf("of %q, %q decides: %v, and is said to be: %q", patterns, patterns[i], decides[i], dead[i])
		}
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

package fallback_test

import (
	"fmt"
	"testing"

	"github.com/distribution/reference"

	"github.com/referee-cri/referee/fallback"
)

func TestPatterns(t *testing.T) {
	t.Parallel()
	digested := "registry.example/app@" + manifest.String()
	for pattern, tc := range map[string]struct{ matches, others []string }{
		"registry.example/app": {
			[]string{"registry.example/app:1", "registry.example/app:2", digested},
			[]string{"registry.example/application:1", "registry.example/app/part:1", "other.example/app:1"},
		},
		"registry.example/app:1":   {[]string{"registry.example/app:1"}, []string{"registry.example/app:12", digested}},
		"registry.example/app:1*":  {[]string{"registry.example/app:1", "registry.example/app:12"}, []string{"registry.example/app:2"}},
		digested:                   {[]string{digested}, []string{"registry.example/app:1"}},
		"registry.example/team/*":  {[]string{"registry.example/team/app:1"}, []string{"registry.example/team/app/part:1", "registry.example/app:1"}},
		"registry.example/**":      {[]string{"registry.example/a:1", "registry.example/a/b/c:1"}, []string{"registry.example.org/a:1"}},
		"docker.io/library/*":      {[]string{"redis", "redis:7"}, []string{"bitnami/redis"}},
		"*.example/app":            {[]string{"registry.example/app:1"}, []string{"registry-example/app:1", "registry.example/x/app:1"}},
		"registry.example:5000/**": {[]string{"registry.example:5000/a:1"}, []string{"registry.example/a:1"}},
		"**":                       {[]string{"redis", digested}, nil},
		"":                         {nil, []string{"redis"}},
		"registry.example/a+(b":    {nil, []string{"registry.example/a:1"}},
	} {
		compiled := fallback.CompilePatterns([]string{pattern})
		for want, images := range map[bool][]string{true: tc.matches, false: tc.others} {
			for _, image := range images {
				named, err := reference.ParseDockerRef(image)
				if err != nil {
					t.Fatal(err)
				}
				if _, got := compiled.Match(named); got != want {
					t.Errorf("%q matches %q: %v", pattern, image, got)
				}
			}
		}
	}
}

func FuzzPatterns(f *testing.F) {
	f.Add("registry.example/**", "registry.example/a/b:1")
	f.Add(`\Q*\E[`, "redis")
	f.Add("\xff*", "a")
	f.Fuzz(func(t *testing.T, pattern, image string) {
		named, err := reference.ParseDockerRef(image)
		if err != nil {
			return
		}
		if _, found := fallback.CompilePatterns([]string{pattern, named.String()}).Match(named); !found {
			t.Errorf("%q does not match itself", named)
		}
	})
}

func ExamplePatterns() {
	patterns := fallback.CompilePatterns([]string{"registry.example/team/*"})
	named, err := reference.ParseDockerRef("registry.example/team/app:1")
	if err != nil {
		panic(err)
	}
	fmt.Println(patterns.Match(named))
	// Output: registry.example/team/* true
}

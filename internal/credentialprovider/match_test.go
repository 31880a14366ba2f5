package credentialprovider_test

import (
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/referee-cri/referee/internal/credentialprovider"
)

func TestMatch(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		glob, image string
		want        bool
	}{
		"host":                       {"gcr.io", "gcr.io/a/b", true},
		"another host":               {"gcr.io", "ghcr.io/a", false},
		"one label by a glob":        {"*.azurecr.io", "team.azurecr.io/app", true},
		"not two labels":             {"*.azurecr.io", "a.b.azurecr.io/app", false},
		"nor none":                   {"*.azurecr.io", "azurecr.io/app", false},
		"two globs":                  {"*.*.registry.io", "a.b.registry.io/x", true},
		"part of a label":            {"app*.k8s.io", "app1.k8s.io/x", true},
		"a label in the middle":      {"*.dkr.ecr.*.amazonaws.com", "123.dkr.ecr.eu-west-1.amazonaws.com/x", true},
		"top-level domain":           {"k8s.*", "k8s.io/x", true},
		"what a URL ends with":       {"k8s.i?", "k8s.io/x", false},
		"port":                       {"registry.io:8080/path", "registry.io:8080/path/x", true},
		"another port":               {"registry.io:8080", "registry.io:8081/x", false},
		"a port not asked for":       {"registry.io", "registry.io:8080/x", false},
		"a port that is missing":     {"registry.io:8080", "registry.io/x", false},
		"path":                       {"registry.io/team", "registry.io/team/x", true},
		"another path":               {"registry.io/team", "registry.io/x", false},
		"path as a mere prefix":      {"registry.io/team", "registry.io/teams/x", true}, // the kubelet's rule
		"no globs in paths":          {"registry.io/*", "registry.io/x", false},
		"no globs in ports":          {"registry.io:*", "registry.io:80/x", false},
		"a trailing slash":           {"registry.io/", "registry.io/x", true},
		"case":                       {"Registry.io", "registry.io/x", false},
		"localhost":                  {"localhost:5000", "localhost:5000/x", true},
		"an address, one glob a dot": {"127.0.0.*:5000", "127.0.0.1:5000/x", true},
		"a broken glob":              {"a\\", "a/x", false},
		"nothing":                    {"", "gcr.io/x", false},
		"everything has labels":      {"*", "gcr.io/x", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := credentialprovider.Match(tc.glob, tc.image); got != tc.want {
				t.Errorf("Match(%q, %q) = %v", tc.glob, tc.image, got)
			}
		})
	}
}

// FuzzMatch compares with another way to say the same, where globs have nothing
// but stars in host names.
func FuzzMatch(f *testing.F) {
	for _, seed := range [][2]string{
		{"*.azurecr.io", "team.azurecr.io/app"},
		{"registry.io:8080/path", "registry.io:8080/path/x"},
		{"a*c*.io", "abcd.io/x"},
		{"*", "localhost/x"},
		{"[::1]:80", "[::1]:80/x"},
		{"a..b", "a..b"},
		{"%zz", "x"},
		{"user@host", "host"},
	} {
		f.Add(seed[0], seed[1])
	}
	plain := regexp.MustCompile(`^[a-z0-9.*-]+(:\d+)?(/[a-z0-9/_-]*)?$`)
	f.Fuzz(func(t *testing.T, glob, image string) {
		got := credentialprovider.Match(glob, image)
		if got {
			if _, err := url.Parse("https://" + image); err != nil {
				t.Errorf("%q matches %q, which is nothing", glob, image)
			}
		}
		if !plain.MatchString(glob) || !plain.MatchString(image) || strings.Contains(image, "*") {
			return
		}
		host, path, _ := strings.Cut(glob, "/")
		if strings.Contains(glob, "/") {
			path = "/" + path
		}
		expression := "^" + strings.ReplaceAll(regexp.QuoteMeta(host), `\*`, `[^.:/]*`) + "(/.*)?$"
		target, rest, _ := strings.Cut(image, "/")
		if strings.Contains(image, "/") {
			rest = "/" + rest
		}
		want := regexp.MustCompile(expression).MatchString(target) && strings.HasPrefix(rest, path)
		if got != want {
			t.Errorf("Match(%q, %q) = %v, want %v", glob, image, got, want)
		}
	})
}

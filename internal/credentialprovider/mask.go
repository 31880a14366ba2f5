package credentialprovider

import (
	"regexp"
	"strconv"
	"strings"
)

const (
	maxStderr = 4 << 10 // bytes kept
	maxShown  = 512     // bytes shown of them
	maskRun   = 6       // so many bytes in common with what is secret are masked
)

var (
	// What follows one of these names is a secret, however short.
	named  = regexp.MustCompile(`(?i)(?:password|passwd|secret|token|authorization|credentials?|api[-_]?key)"?\s*[:=]\s*"?([^\s"',;]+)`)
	scheme = regexp.MustCompile(`(?i)\b(?:basic|bearer)\s+([^\s"',;]+)`)

	// Letters and digits of that length are a key or a token, not a name.
	tokenLike = regexp.MustCompile(`[A-Za-z0-9_+/=~-]{20,}`)
)

// masked prepares what a plugin said on standard error for a log: one line,
// clipped, nothing of it that is part of any of the secrets, nothing that looks
// like one. It errs on the side of hiding.
func masked(stderr string, secrets ...string) string {
	hidden := make([]bool, len(stderr))
	hide := func(from, to int) {
		for i := from; i < to; i++ {
			hidden[i] = true
		}
	}
	for _, secret := range secrets {
		for i := 0; i+maskRun <= len(stderr); i++ {
			if strings.Contains(secret, stderr[i:i+maskRun]) {
				hide(i, i+maskRun)
			}
		}
		if secret == "" || len(secret) > maskRun {
			continue
		}
		for i := 0; i+len(secret) <= len(stderr); i++ {
			if stderr[i:i+len(secret)] == secret {
				hide(i, i+len(secret))
			}
		}
	}
	for _, names := range []*regexp.Regexp{named, scheme} {
		for _, m := range names.FindAllStringSubmatchIndex(stderr, -1) {
			hide(m[2], m[3])
		}
	}
	for _, m := range tokenLike.FindAllStringIndex(stderr, -1) {
		if strings.ContainsAny(stderr[m[0]:m[1]], "0123456789") {
			hide(m[0], m[1])
		}
	}
	var b strings.Builder
	for i := 0; i < len(stderr); i++ {
		switch {
		case !hidden[i]:
			b.WriteByte(stderr[i])
		case i == 0 || !hidden[i-1]:
			b.WriteString("***")
		}
	}
	shown := strings.TrimSpace(b.String())
	if len(shown) > maxShown {
		shown = shown[:maxShown] + "..."
	}
	quoted := strconv.Quote(shown) // control characters, broken UTF-8
	return quoted[1 : len(quoted)-1]
}

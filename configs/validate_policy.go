package configs

import (
	"fmt"
	"slices"
	"strings"
)

// maxPattern bounds a pattern: a repository's name may have 255 characters
// (distribution/reference).
const maxPattern = 512

// policies finds what is wrong with the [[policy]] blocks, each for itself. What
// they are to each other is for `referee config check` to judge.
func (p *problems) policies(policies []Policy, trust []Trust) {
	defined := make(map[string]bool, len(trust))
	for i := range trust {
		defined[trust[i].Name] = true
	}
	for i := range policies {
		policy, key := &policies[i], func(format string, args ...any) string {
			return fmt.Sprintf("policy[%d].", i) + fmt.Sprintf(format, args...)
		}
		if policy.Match != nil && len(policy.Match) == 0 {
			p.add(key("match"), "must not be empty; a block without it matches every repository")
		}
		for j, pattern := range policy.Match {
			p.repositoryPattern(key("match[%d]", j), pattern)
		}
		if policy.Formats != nil {
			p.members(key("formats"), *policy.Formats, func(format string) string {
				if slices.Contains(formats, format) {
					return ""
				}
				return "must be one of " + strings.Join(formats, ", ")
			})
		}
		p.members(key("trust"), policy.Trust, func(name string) string {
			if defined[name] {
				return ""
			}
			return "must be the name of a [[trust]] block"
		})
		if policy.LegacyORAS != "" {
			p.oneOf(key("legacy_oras"), policy.LegacyORAS, legacyModes)
		}
		if policy.ForeignFilesystems != "" {
			p.oneOf(key("foreign_filesystems"), policy.ForeignFilesystems, foreignModes)
		}
	}
}

// repositoryPattern wants a pattern without a tag or digest.
func (p *problems) repositoryPattern(key, pattern string) {
	_, path, nested := strings.Cut(pattern, "/")
	if strings.Contains(pattern, "@") || strings.Contains(path, ":") || !nested && strings.Contains(pattern, ":") {
		p.add(key, "must match repositories, which have no tag and no digest, is %q", pattern)
		return
	}
	p.pattern(key, pattern)
}

// members finds elements that are wrong, and those that are there twice.
func (p *problems) members(key string, list []string, wrong func(string) string) {
	for i, element := range list {
		if problem := wrong(element); problem != "" {
			p.add(fmt.Sprintf("%s[%d]", key, i), "%s, is %q", problem, element)
		} else if slices.Contains(list[:i], element) {
			p.add(fmt.Sprintf("%s[%d]", key, i), "is there twice: %q", element)
		}
	}
}

// trusts finds what is wrong with the [[trust]] blocks. Which keys of a scheme go
// with which is for the scheme to say when the files are read.
func (p *problems) trusts(all []Trust) {
	names := map[string]bool{}
	for i := range all {
		t, key := &all[i], func(name string) string { return fmt.Sprintf("trust[%d].%s", i, name) }
		switch {
		case t.Name == "" || strings.ContainsFunc(t.Name, func(r rune) bool { return r <= ' ' || r > '~' }):
			p.add(key("name"), "must be a name without spaces, is %q", t.Name)
		case names[t.Name]:
			p.add(key("name"), "another [[trust]] block has the name %q", t.Name)
		}
		names[t.Name] = true
		p.oneOf(key("type"), t.Type, trustTypes)
		for _, owned := range t.keysByType() {
			if owned.set && owned.scheme != t.Type && slices.Contains(trustTypes, t.Type) {
				p.add(key(owned.key), "belongs to the type %q, not to %q", owned.scheme, t.Type)
			}
		}
		if t.Type == "notation" {
			p.path(key("policy_file"), t.PolicyFile)
			p.path(key("trust_store"), t.TrustStore)
		}
		for j, file := range t.Keys {
			p.path(fmt.Sprintf("%s[%d]", key("keys"), j), file)
		}
		p.optionalPath(key("crl_dir"), t.CRLDir)
		p.optionalPath(key("trusted_root"), t.TrustedRoot)
	}
}

// ownedKey is a key that only one type of trust block may have.
type ownedKey struct {
	key, scheme string
	set         bool
}

func (t *Trust) keysByType() []ownedKey {
	return []ownedKey{
		{"policy_file", "notation", t.PolicyFile != ""},
		{"trust_store", "notation", t.TrustStore != ""},
		{"crl_dir", "notation", t.CRLDir != ""},
		{"keys", "sigstore", len(t.Keys) > 0},
		{"trusted_root", "sigstore", t.TrustedRoot != ""},
		{"identities", "sigstore", len(t.Identities) > 0},
		{"require_log", "sigstore", t.RequireLog != nil},
		{"require_timestamp", "sigstore", t.RequireTimestamp},
		{"check_reference", "sigstore", t.CheckReference},
	}
}

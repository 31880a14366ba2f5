package configs

import "fmt"

// DefaultMinSize is min_size of a block that has none, and where no block
// matches: below it an ordinary pull takes less than a second on most networks.
const DefaultMinSize = 8 * MiB

// Policy is one [[policy]] block: what holds for the repositories that it
// matches more specifically than any other. Blocks are not merged: what a block
// leaves out has the default. The zero value is the built-in policy.
type Policy struct {
	// Match lists patterns of repositories. "*" stands for any run of characters
	// without a slash, "**" for any run. nil: every repository.
	Match []string `toml:"match,omitempty"`
	// Formats are those allowed, the preferred first. nil: all of them, in the
	// built-in order.
	Formats            *FormatList `toml:"formats,omitempty"`
	MinSize            *Size       `toml:"min_size,omitempty"` // nil: DefaultMinSize
	RequireSignature   bool        `toml:"require_signature,omitempty"`
	Trust              []string    `toml:"trust,omitempty"`               // names of [[trust]] blocks
	LegacyORAS         string      `toml:"legacy_oras,omitempty"`         // "": off
	ForeignFilesystems string      `toml:"foreign_filesystems,omitempty"` // "": allow
}

// MinBytes is min_size or its default, in bytes.
func (p *Policy) MinBytes() int64 {
	if p.MinSize == nil {
		return DefaultMinSize
	}
	return p.MinSize.Bytes
}

// FormatList is a list of formats, or "none", which is the empty list.
type FormatList []string

// UnmarshalText reads "none". Lists are read as such.
func (l *FormatList) UnmarshalText(text []byte) error {
	if string(text) != "none" {
		return fmt.Errorf("%q is neither a list of formats nor \"none\"", text)
	}
	*l = FormatList{}
	return nil
}

// Trust is one [[trust]] block: whose signatures count, by the rules of a
// scheme. Which keys it may have depends on Type.
type Trust struct {
	Name string `toml:"name"`
	Type string `toml:"type"`

	// Of type "notation".
	PolicyFile string `toml:"policy_file,omitempty"`
	TrustStore string `toml:"trust_store,omitempty"` // directory
	CRLDir     string `toml:"crl_dir,omitempty"`

	// Of type "sigstore".
	Keys             []string   `toml:"keys,omitempty"` // PEM files
	TrustedRoot      string     `toml:"trusted_root,omitempty"`
	Identities       []Identity `toml:"identities,omitempty"`
	RequireLog       *bool      `toml:"require_log,omitempty"` // nil: where there is a trusted root
	RequireTimestamp bool       `toml:"require_timestamp,omitempty"`
	CheckReference   bool       `toml:"check_reference,omitempty"`
}

// Identity is whom a certificate must have been issued to, and by which issuer:
// of each, the value or a regular expression for the whole of it.
type Identity struct {
	Issuer        string `toml:"issuer,omitempty"`
	IssuerRegexp  string `toml:"issuer_regexp,omitempty"`
	Subject       string `toml:"subject,omitempty"`
	SubjectRegexp string `toml:"subject_regexp,omitempty"`
}

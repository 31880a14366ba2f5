package sigstore

import (
	"errors"
	"fmt"
	"regexp"

	"github.com/sigstore/sigstore-go/pkg/fulcio/certificate"
	"github.com/sigstore/sigstore-go/pkg/verify"
	"go.uber.org/zap"
)

// Options is what one trust store trusts. Keys, or a trusted root with identities,
// or both.
type Options struct {
	// Keys are PEM files of public keys (ECDSA, RSA, Ed25519), one or more in each.
	Keys []string
	// TrustedRoot is a file in the format of Sigstore's trusted_root.json:
	// certificate authorities, logs and timestamp authorities.
	TrustedRoot string
	// Identities are the certificates that count, any of them. Without identities
	// no certificate does, and the root serves logs and timestamps of Keys only.
	Identities []Identity
	// RequireLog wants each signature in a transparency log of the trusted root.
	// nil: where there is a trusted root. A log entry that is not required still
	// serves as the time of a certificate's use.
	RequireLog *bool
	// RequireTimestamp wants each signature stamped by a timestamp authority of the
	// trusted root.
	RequireTimestamp bool
	// CheckReference wants the docker-reference of simple signing to name the
	// repository where the signature was found. cosign does not ask for that:
	// signatures outlive the copying of images. Bundles name no repository.
	CheckReference bool
	// Logger is told when files were read again, or could not be. nil: nobody.
	Logger *zap.Logger
}

// Identity is whom a certificate must have been issued to: by which OpenID Connect
// issuer, to which subject (the certificate's alternative name: an e-mail address
// or a URI). Of each, either the exact value or a regular expression for all of it.
type Identity struct {
	Issuer        string
	IssuerRegexp  string
	Subject       string
	SubjectRegexp string
}

// Validate looks at the values alone, not at the files, and returns all problems.
func (o Options) Validate() error {
	var problems []error
	add := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	switch {
	case len(o.Keys) == 0 && o.TrustedRoot == "":
		add("keys or trusted root: one of them is needed")
	case len(o.Keys) == 0 && len(o.Identities) == 0:
		add("identities: none is given, and a trusted root without any would trust everybody")
	}
	if o.TrustedRoot == "" {
		if len(o.Identities) > 0 {
			add("identities: certificates need a trusted root")
		}
		if o.RequireLog != nil && *o.RequireLog {
			add("require log: the keys of logs come from a trusted root, and there is none")
		}
		if o.RequireTimestamp {
			add("require timestamp: the certificates of timestamp authorities come from a trusted root, and there is none")
		}
	}
	if _, err := identities(o.Identities); err != nil {
		problems = append(problems, err)
	}
	return errors.Join(problems...)
}

// requireLog is the value of RequireLog, or its default.
func (o Options) requireLog() bool {
	if o.RequireLog != nil {
		return *o.RequireLog
	}
	return o.TrustedRoot != ""
}

// identities compiles what the operator wrote.
func identities(list []Identity) (verify.CertificateIdentities, error) {
	var compiled verify.CertificateIdentities
	var problems []error
	for i, id := range list {
		c, err := id.compile()
		if err != nil {
			problems = append(problems, fmt.Errorf("identity %d: %w", i+1, err))
			continue
		}
		compiled = append(compiled, c)
	}
	return compiled, errors.Join(problems...)
}

func (id Identity) compile() (verify.CertificateIdentity, error) {
	if (id.Issuer == "") == (id.IssuerRegexp == "") {
		return verify.CertificateIdentity{}, errors.New("either issuer or issuer regexp is needed, and not both")
	}
	if (id.Subject == "") == (id.SubjectRegexp == "") {
		return verify.CertificateIdentity{}, errors.New("either subject or subject regexp is needed, and not both")
	}
	issuer, err := verify.NewIssuerMatcher(id.Issuer, whole(id.IssuerRegexp))
	if err != nil {
		return verify.CertificateIdentity{}, fmt.Errorf("issuer regexp: %w", err)
	}
	subject, err := verify.NewSANMatcher(id.Subject, whole(id.SubjectRegexp))
	if err != nil {
		return verify.CertificateIdentity{}, fmt.Errorf("subject regexp: %w", err)
	}
	return verify.NewCertificateIdentity(subject, issuer, certificate.Extensions{})
}

// whole anchors an expression at both ends of the text, unless there is none or it
// would not compile alone.
func whole(expression string) string {
	if expression == "" {
		return ""
	}
	if _, err := regexp.Compile(expression); err != nil {
		return expression // the caller says what is wrong with it, in the operator's words
	}
	return `\A(?:` + expression + `)\z`
}

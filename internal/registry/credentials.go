package registry

import (
	"encoding/base64"
	"fmt"
	"net/url"
	"strings"
)

// Credentials are what a PullImage request brings (CRI AuthConfig), or a Source
// has. The zero value is anonymous. They print as nothing but their kind.
type Credentials struct {
	Username      string
	Password      string
	Auth          string // base64 of "user:password"
	IdentityToken string // exchanged for an access token

	// ServerAddress limits the credentials to that host: "https://host[:port]"
	// or "host[:port]". Empty: any host of the repository, mirrors included, as
	// in containerd.
	ServerAddress string
}

// Anonymous reports whether there is nothing to present.
func (c Credentials) Anonymous() bool {
	return c.Username == "" && c.IdentityToken == "" && c.Auth == ""
}

// String never shows a secret.
func (c Credentials) String() string {
	if c.Anonymous() {
		return "anonymous"
	}
	return "credentials (hidden)"
}

// GoString never shows a secret.
func (c Credentials) GoString() string { return c.String() }

// MarshalText never shows a secret, whatever encoder a logger uses.
func (c Credentials) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// isFor reports whether host may see the credentials.
func (c Credentials) isFor(host string) bool {
	return c.ServerAddress == "" || serverHost(c.ServerAddress) == host
}

// secret returns what to present: a user name and password, an empty name and an
// identity token, or nothing. The order is containerd's ParseAuth.
func (c Credentials) secret() (username, secret string, err error) {
	switch {
	case c.Username != "":
		return c.Username, c.Password, nil
	case c.IdentityToken != "":
		return "", c.IdentityToken, nil
	case c.Auth != "":
		return decodeAuth(c.Auth)
	}
	return "", "", nil
}

func decodeAuth(auth string) (username, password string, err error) {
	decoded, err := base64.StdEncoding.DecodeString(auth)
	if err != nil {
		return "", "", fmt.Errorf("decode auth field: %w", err)
	}
	username, password, ok := strings.Cut(string(decoded), ":")
	if !ok {
		return "", "", fmt.Errorf("decode auth field: no colon in it")
	}
	return username, strings.Trim(password, "\x00"), nil
}

// serverHost takes the authority from an address with or without a scheme.
func serverHost(address string) string {
	if !strings.Contains(address, "://") {
		host, _, _ := strings.Cut(address, "/")
		return host
	}
	u, err := url.Parse(address)
	if err != nil {
		return ""
	}
	return u.Host
}

package negotiate

import (
	"errors"
	"net/http"
	"net/url"
	"strings"

	"github.com/referee-cri/referee/internal/reason"
)

// nextLink returns the target of the first link with relation "next" among all
// Link headers (RFC 8288), and whether there is one. Malformed links are passed over.
func nextLink(header http.Header) (target string, found bool) {
	for _, value := range header.Values("Link") {
		for value != "" {
			var link webLink
			link, value = scanLink(value)
			if link.ok && link.hasRelation("next") {
				return link.target, true
			}
		}
	}
	return "", false
}

// webLink is one link-value.
type webLink struct {
	target   string
	relation string // the first rel parameter: later ones are to be ignored (RFC 8288, 3.3)
	hasRel   bool
	ok       bool
}

func (l webLink) hasRelation(name string) bool {
	for _, r := range strings.Fields(l.relation) {
		if strings.EqualFold(r, name) {
			return true
		}
	}
	return false
}

// scanLink reads one link-value: `<target> *( ; name [= token | quoted-string] )`.
// rest is what follows the comma after it. Targets and quoted values may hold
// commas and semicolons themselves.
func scanLink(s string) (link webLink, rest string) {
	s = strings.TrimLeft(s, " \t,")
	if !strings.HasPrefix(s, "<") {
		return webLink{}, afterComma(s)
	}
	target, s, closed := strings.Cut(s[1:], ">")
	if !closed {
		return webLink{}, ""
	}
	link = webLink{target: strings.TrimSpace(target), ok: true}
	for {
		s = strings.TrimLeft(s, " \t")
		if !strings.HasPrefix(s, ";") {
			return link, afterComma(s)
		}
		var name, value string
		name, value, s = scanParam(strings.TrimLeft(s[1:], " \t"))
		if strings.EqualFold(name, "rel") && !link.hasRel {
			link.relation, link.hasRel = value, true
		}
	}
}

// scanParam reads one parameter and returns what follows it.
func scanParam(s string) (name, value, rest string) {
	end := strings.IndexAny(s, "=;,")
	if end < 0 {
		return strings.TrimSpace(s), "", ""
	}
	name, s = strings.TrimSpace(s[:end]), s[end:]
	if s[0] != '=' {
		return name, "", s
	}
	s = strings.TrimLeft(s[1:], " \t")
	if strings.HasPrefix(s, `"`) {
		value, rest = scanQuoted(s[1:])
		return name, value, rest
	}
	end = strings.IndexAny(s, ";,")
	if end < 0 {
		end = len(s)
	}
	return name, strings.TrimSpace(s[:end]), s[end:]
}

// scanQuoted reads a quoted-string after its opening quote.
func scanQuoted(s string) (value, rest string) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '"':
			return b.String(), s[i+1:]
		case s[i] == '\\' && i+1 < len(s):
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String(), ""
}

func afterComma(s string) string {
	_, rest, _ := strings.Cut(s, ",")
	return rest
}

// errForeignPage is a link to the next page that leaves the registry.
var errForeignPage = errors.New("next page is on another origin")

// resolvePage resolves the reference to a next page against the URL of the
// present one. Only the same scheme, host and port are followed: a registry must
// not be able to send the node, with its credentials, to an address of its choice.
func resolvePage(present *url.URL, reference string) (*url.URL, error) {
	ref, err := url.Parse(reference)
	if err != nil {
		return nil, reason.Errorf(reason.RegistryError, "parse link to the next page: %w", err)
	}
	next := present.ResolveReference(ref)
	if next.Scheme != present.Scheme || !strings.EqualFold(hostPort(next), hostPort(present)) || next.User != nil {
		return nil, reason.Errorf(reason.RegistryError, "%w: %s", errForeignPage, clip(next.Host))
	}
	next.Fragment = ""
	return next, nil
}

// hostPort is the host with its port, written or implied.
func hostPort(u *url.URL) string {
	port := u.Port()
	if port == "" && u.Scheme == "https" {
		port = "443"
	} else if port == "" {
		port = "80"
	}
	return u.Hostname() + ":" + port
}

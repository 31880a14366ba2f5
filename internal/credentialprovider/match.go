package credentialprovider

import (
	"net"
	"net/url"
	"path"
	"strings"
)

// pattern is a matchImages entry, a key of a plugin's answer, or an image: a host
// by its labels, a port and a path.
type pattern struct {
	labels []string
	port   string
	path   string
}

// parsePattern reads "host[:port][/path]", as the kubelet does.
func parsePattern(text string) (pattern, error) {
	u, err := url.Parse("https://" + text)
	if err != nil {
		return pattern{}, err
	}
	host, port, err := net.SplitHostPort(u.Host)
	if err != nil {
		host, port = u.Host, "" // there is none
	}
	return pattern{labels: strings.Split(host, "."), port: port, path: u.Path}, nil
}

// matches applies the rules of k8s.io/kubelet/config/v1, CredentialProvider,
// matchImages: as many labels, each matching as a glob; the same port; a prefix
// of the path. The prefix need not end where an element does: "/team" matches
// "/teams/app", in the kubelet as well.
func (p pattern) matches(image pattern) bool {
	if p.port != image.port || len(p.labels) != len(image.labels) || !strings.HasPrefix(image.path, p.path) {
		return false
	}
	for i, glob := range p.labels {
		if ok, err := path.Match(glob, image.labels[i]); err != nil || !ok {
			return false
		}
	}
	return true
}

// Match reports whether an image's name, "host[:port]/path", matches a pattern of
// matchImages. What cannot be parsed matches nothing.
func Match(glob, image string) bool {
	p, err := parsePattern(glob)
	if err != nil {
		return false
	}
	target, err := parsePattern(image)
	return err == nil && p.matches(target)
}

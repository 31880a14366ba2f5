package registry

import (
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
)

// session is what repositories of one name and one set of credentials share.
type session struct {
	key    sessionKey
	used   time.Time   // under Client.mu
	proven atomic.Bool // a host has answered to the request's credentials

	mu     sync.Mutex
	set    *hostSet
	tokens map[*host]*tokens
}

// tokensFor returns the tokens for h, a host of set. Tokens die with the host
// set they were fetched through.
func (s *session) tokensFor(c *Client, set *hostSet, h *host) *tokens {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.set != set {
		s.set, s.tokens = set, make(map[*host]*tokens)
	}
	t, ok := s.tokens[h]
	if !ok {
		t = newTokens(s.offers(c, h), func(creds Credentials) docker.Authorizer { return s.authorizer(c, h, creds) }, c.opts.Log)
		s.tokens[h] = t
	}
	return t
}

// offers are what h may be shown. Credentials that the request limits to another
// server are none here.
func (s *session) offers(c *Client, h *host) offers {
	o := offers{proven: &s.proven, sources: c.sources, repository: s.key.host + "/" + s.key.path, host: h.Host}
	if s.key.creds.isFor(h.Host) {
		o.request = s.key.creds
	}
	return o
}

func (s *session) authorizer(c *Client, h *host, creds Credentials) docker.Authorizer {
	client := *h.Client
	client.Timeout = c.opts.TokenTimeout
	header := http.Header{"User-Agent": {c.opts.UserAgent}}
	for name, values := range h.Header {
		header[http.CanonicalHeaderKey(name)] = values
	}
	return docker.NewDockerAuthorizer(
		docker.WithAuthClient(&client),
		docker.WithAuthHeader(header),
		docker.WithAuthCreds(func(string) (string, string, error) { return creds.secret() }),
	)
}

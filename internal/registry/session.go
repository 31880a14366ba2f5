package registry

import (
	"net/http"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
)

// session is what repositories of one name and one set of credentials share.
type session struct {
	key  sessionKey
	used time.Time // under Client.mu

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
		t = newTokens(func() docker.Authorizer { return s.authorizer(c, h) })
		s.tokens[h] = t
	}
	return t
}

func (s *session) authorizer(c *Client, h *host) docker.Authorizer {
	client := *h.Client
	client.Timeout = c.opts.TokenTimeout
	header := http.Header{"User-Agent": {c.opts.UserAgent}}
	for name, values := range h.Header {
		header[http.CanonicalHeaderKey(name)] = values
	}
	return docker.NewDockerAuthorizer(
		docker.WithAuthClient(&client),
		docker.WithAuthHeader(header),
		docker.WithAuthCreds(func(host string) (string, string, error) {
			if s.key.creds.Anonymous() && c.fallback != nil {
				return c.fallback(host)
			}
			return s.key.creds.forHost(host)
		}),
	)
}

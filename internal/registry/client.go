package registry

import (
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/distribution/reference"
	"go.uber.org/zap"

	"github.com/referee-cri/referee/internal/reason"
)

// The limits on what a Client remembers. Both are far above what one node pulls
// from; they bound the memory that odd image names can take.
const (
	maxHostSets = 256
	maxSessions = 1024
)

// Options configure a Client. The zero value is what containerd does by default.
type Options struct {
	// HostDirs are the certs.d roots, in containerd's config_path split at ':'.
	// The first root with a directory for a host (or a _default) wins.
	// nil means /etc/containerd/certs.d, then /etc/docker/certs.d.
	HostDirs []string

	// Sources are asked for credentials, in this order, when a host wants some
	// and the request brought none, or those it brought have served and are
	// refused now. What one has is tried before the next is asked; last of all
	// comes an anonymous try. Credentials go to the hosts of the repository they
	// were asked for, mirrors included, by the rule of containerd: the kubelet
	// passes it the same node credentials without a server address, and it shows
	// them to whichever of the registry's hosts wants some. (A peer-to-peer proxy
	// that passes the origin's challenge on depends on that.)
	Sources []Source

	// DockerConfig is the path of a docker config.json, with its credential
	// helpers the last of the Sources. Empty: none.
	DockerConfig string

	UserAgent string // default "referee"

	DialTimeout           time.Duration // TCP connect, default 5s; a host's own dial_timeout wins
	TLSHandshakeTimeout   time.Duration // default 5s
	ResponseHeaderTimeout time.Duration // default 10s
	TokenTimeout          time.Duration // one whole request to a token server, default 10s
	IdleTimeout           time.Duration // idle connections are kept this long, default 90s
	MaxIdlePerHost        int           // idle connections kept for parallel ranges, default 32

	// DownTime is how long a host that could not be reached is asked after the
	// others. Default 20s.
	DownTime time.Duration

	// Observe is told of every request to a host that has been answered or failed,
	// redirects and challenges included, by many goroutines at once. It must not
	// block. nil: nobody is told.
	Observe func(Asked)

	Log *zap.Logger // default: silent
}

// Asked is what became of one request.
type Asked struct {
	Path string        // Request.Path
	Took time.Duration // until the header of the answer
	Err  error         // nil: a 2xx answer
}

func (o *Options) setDefaults() {
	if o.HostDirs == nil {
		o.HostDirs = []string{"/etc/containerd/certs.d", "/etc/docker/certs.d"}
	}
	if o.UserAgent == "" {
		o.UserAgent = "referee"
	}
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{
		{&o.DialTimeout, 5 * time.Second},
		{&o.TLSHandshakeTimeout, 5 * time.Second},
		{&o.ResponseHeaderTimeout, 10 * time.Second},
		{&o.TokenTimeout, 10 * time.Second},
		{&o.IdleTimeout, 90 * time.Second},
		{&o.DownTime, 20 * time.Second},
	} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	if o.MaxIdlePerHost == 0 {
		o.MaxIdlePerHost = 32
	}
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
}

// Client holds the connections and tokens of all repositories. It is safe for
// concurrent use.
type Client struct {
	opts    Options
	sources []Source // DockerConfig among them

	mu       sync.Mutex
	hostSets map[string]*hostSet
	sessions map[sessionKey]*session
}

// New returns a Client. Nothing is read or connected before the first request.
func New(opts Options) *Client {
	opts.setDefaults()
	c := &Client{
		opts:     opts,
		sources:  slices.Clone(opts.Sources),
		hostSets: make(map[string]*hostSet),
		sessions: make(map[sessionKey]*session),
	}
	if opts.DockerConfig != "" {
		c.sources = append(c.sources, &dockerConfig{path: opts.DockerConfig, timeout: opts.TokenTimeout, log: opts.Log})
	}
	return c
}

// Close closes idle connections and forgets hosts and tokens. Requests under way
// are not disturbed, and the Client can still be used.
func (c *Client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, set := range c.hostSets {
		set.closeIdle()
	}
	clear(c.hostSets)
	clear(c.sessions)
	return nil
}

// sessionKey names what tokens may be shared by.
type sessionKey struct {
	host, path string
	creds      Credentials
}

// Repository returns the repository of that name, which is "host[:port]/path"
// or any short form that docker knows. Repositories of the same name and
// credentials share their tokens. With the zero Credentials a host that wants
// some gets those of Options.Sources.
func (c *Client) Repository(name string, creds Credentials) (*Repository, error) {
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return nil, reason.Errorf(reason.BadRequest, "parse repository name %q: %w", name, err)
	}
	key := sessionKey{host: reference.Domain(named), path: reference.Path(named), creds: creds}
	return &Repository{client: c, session: c.session(key)}, nil
}

// HostOf is the registry in a repository's full name, "host[:port]/path": who
// answers for what has which digest there, by whatever mirrors it is fetched.
func HostOf(repository string) string {
	host, _, _ := strings.Cut(repository, "/")
	return host
}

func (c *Client) session(key sessionKey) *session {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s, ok := c.sessions[key]; ok {
		s.used = time.Now()
		return s
	}
	if len(c.sessions) >= maxSessions {
		c.dropOldestSession()
	}
	s := &session{key: key, used: time.Now()}
	c.sessions[key] = s
	return s
}

// dropOldestSession forgets the tokens used longest ago; repositories that still
// hold them go on.
func (c *Client) dropOldestSession() {
	var oldest *session
	for _, s := range c.sessions {
		if oldest == nil || s.used.Before(oldest.used) {
			oldest = s
		}
	}
	delete(c.sessions, oldest.key)
}

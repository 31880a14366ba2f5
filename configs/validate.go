package configs

import (
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// maxSocketPath is what fits into sun_path of sockaddr_un with its final zero
// byte (unix(7): 108 bytes).
const maxSocketPath = 107

// The values that an enumerated key may have.
var (
	drivers    = []string{"auto", "fuse"}
	logLevels  = []string{"debug", "info", "warn", "error"}
	logFormats = []string{"json", "text"}
)

// Validate returns every problem of the configuration, joined, each a line that
// begins with the key it is about; nil where there is none. It looks at values
// only, never at the file system.
func (c *Config) Validate() error {
	var p problems
	if c.Version != Version {
		p.add("version", "must be %d, is %d", Version, c.Version)
	}
	p.path("root", c.Root)
	p.path("state", c.State)
	for i, pattern := range c.Disabled {
		p.pattern(fmt.Sprintf("disabled[%d]", i), pattern)
	}
	p.socket("cri.socket", c.CRI.Socket)
	p.socket("cri.backend", c.CRI.Backend)
	if c.CRI.Socket == c.CRI.Backend {
		p.add("cri.backend", "must not be cri.socket: Referee would forward to itself")
	}
	if c.Containerd.Address != "" {
		p.socket("containerd.address", c.Containerd.Address)
		if c.Containerd.Address == c.CRI.Socket {
			p.add("containerd.address", "must not be cri.socket: that is Referee's own")
		}
	}
	if c.Containerd.Namespace == "" {
		p.add("containerd.namespace", "must not be empty; the kubelet's images are in \"k8s.io\"")
	}
	for _, dir := range c.HostDirs() {
		p.path("registry.config_path", dir)
	}
	if c.Registry.DockerConfig != "" {
		p.path("registry.docker_config", c.Registry.DockerConfig)
	}
	for i, host := range c.Registry.LegacyORAS {
		p.host(fmt.Sprintf("registry.legacy_oras[%d]", i), host)
	}
	p.duration("pull.negotiate_timeout", c.Pull.NegotiateTimeout, time.Millisecond, time.Minute)
	p.duration("pull.attach_timeout", c.Pull.AttachTimeout, time.Millisecond, 5*time.Minute)
	p.duration("pull.node_timeout", c.Pull.NodeTimeout, time.Millisecond, time.Minute)
	p.duration("pull.recheck_after", c.Pull.RecheckAfter, 0, 24*time.Hour)
	if c.Cache.Dir != "" {
		p.path("cache.dir", c.Cache.Dir)
	}
	if c.Cache.MaxSize.Bytes < 64*MiB {
		p.add("cache.max_size", "must be at least \"64MiB\"")
	}
	p.duration("reads.give_up_after", c.Reads.GiveUpAfter, time.Second, 24*time.Hour)
	p.oneOf("attach.driver", c.Attach.Driver, drivers)
	if c.Breaker.Failures < 1 {
		p.add("breaker.failures", "must be at least 1, is %d", c.Breaker.Failures)
	}
	p.duration("breaker.open_for", c.Breaker.OpenFor, time.Second, time.Hour)
	p.oneOf("log.level", c.Log.Level, logLevels)
	p.oneOf("log.format", c.Log.Format, logFormats)
	return errors.Join(p...)
}

// problems gathers what is wrong, a key at a time.
type problems []error

func (p *problems) add(key, format string, args ...any) {
	*p = append(*p, fmt.Errorf("%s: "+format, append([]any{key}, args...)...))
}

func (p *problems) path(key, path string) {
	switch {
	case !filepath.IsAbs(path):
		p.add(key, "must be an absolute path, is %q", path)
	case filepath.Clean(path) == "/":
		p.add(key, "must not be the root directory")
	case strings.ContainsFunc(path, func(r rune) bool { return r < ' ' }):
		p.add(key, "must not hold control characters, is %q", path)
	}
}

func (p *problems) socket(key, path string) {
	if trimmed, found := strings.CutPrefix(path, "unix://"); found {
		p.add(key, "is a path, without a scheme: %q", trimmed)
		return
	}
	p.path(key, path)
	if len(path) > maxSocketPath {
		p.add(key, "is %d bytes long; a unix socket's path may have %d", len(path), maxSocketPath)
	}
}

// pattern wants a registry host first: references are compared in their full
// form, so that "redis" would never match and silently disable nothing.
func (p *problems) pattern(key, pattern string) {
	first, _, _ := strings.Cut(pattern, "/")
	switch {
	case strings.ContainsFunc(pattern, func(r rune) bool { return r <= ' ' }) || pattern == "":
		p.add(key, "must be a pattern such as \"registry.example/team/*\", is %q", pattern)
	case !strings.ContainsAny(first, ".:*") && first != "localhost":
		p.add(key, "must begin with a registry's host, as in \"docker.io/library/%s\", is %q", first, pattern)
	}
}

func (p *problems) host(key, host string) {
	if host == "*" {
		return
	}
	parsed, err := url.Parse("//" + host)
	if err != nil || host == "" || parsed.Host != host || parsed.Hostname() == "" {
		p.add(key, "must be a registry's host such as \"registry.example:5000\", or \"*\", is %q", host)
	}
}

func (p *problems) duration(key string, value Duration, least, most time.Duration) {
	if d := value.Duration; d < least || d > most {
		p.add(key, "must be between %s and %s, is %s", least, most, d)
	}
}

func (p *problems) oneOf(key, value string, allowed []string) {
	if !slices.Contains(allowed, value) {
		p.add(key, "must be one of %s, is %q", strings.Join(allowed, ", "), value)
	}
}

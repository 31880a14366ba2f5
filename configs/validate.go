package configs

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// maxSocketPath is what fits into sun_path of sockaddr_un with its final zero
// byte (unix(7): 108 bytes).
const maxSocketPath = 107

// The values that an enumerated key may have.
var (
	drivers    = []string{"auto", "fuse", "nbd", "fanotify"}
	logLevels  = []string{"debug", "info", "warn", "error"}
	logFormats = []string{"json", "text"}
	trustTypes = []string{"notation", "sigstore"}
	// formats are all that have a name, also those this version cannot read.
	formats      = []string{"overlaybd", "turbooci", "estargz", "zstdchunked", "soci", "nydus", "erofs", "disk"}
	legacyModes  = []string{"off", "on", "auto"}
	foreignModes = []string{"allow", "signed-only", "deny"}
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
	p.optionalPath("containerd.image_verifier_dir", c.Containerd.ImageVerifierDir)
	p.duration("containerd.image_verifier_timeout", c.Containerd.ImageVerifierTimeout, time.Millisecond, 5*time.Minute)
	if most := c.Containerd.ImageVerifierMax; most < -1 || most > 1000 {
		p.add("containerd.image_verifier_max", "must be between 0 and 1000, or -1 for no limit, is %d", most)
	}
	for _, dir := range c.HostDirs() {
		p.path("registry.config_path", dir)
	}
	p.optionalPath("registry.docker_config", c.Registry.DockerConfig)
	p.credentialProviders(c.Registry)
	p.policies(c.Policy, c.Trust)
	p.trusts(c.Trust)
	p.duration("pull.negotiate_timeout", c.Pull.NegotiateTimeout, time.Millisecond, time.Minute)
	p.duration("pull.attach_timeout", c.Pull.AttachTimeout, time.Millisecond, 5*time.Minute)
	p.duration("pull.node_timeout", c.Pull.NodeTimeout, time.Millisecond, time.Minute)
	p.duration("pull.recheck_after", c.Pull.RecheckAfter, 0, 24*time.Hour)
	p.optionalPath("cache.dir", c.Cache.Dir)
	if c.Cache.MaxSize.Bytes < 64*MiB {
		p.add("cache.max_size", "must be at least \"64MiB\"")
	}
	p.duration("reads.give_up_after", c.Reads.GiveUpAfter, time.Second, 24*time.Hour)
	if rate := c.Completion.Rate.Bytes; rate != 0 && rate < 64*KiB {
		p.add("completion.rate", "must be \"0B\" or at least \"64KiB\"")
	}
	p.duration("completion.delay", c.Completion.Delay, 0, 24*time.Hour)
	p.oneOf("attach.driver", c.Attach.Driver, drivers)
	if c.Breaker.Failures < 1 {
		p.add("breaker.failures", "must be at least 1, is %d", c.Breaker.Failures)
	}
	p.duration("breaker.open_for", c.Breaker.OpenFor, time.Second, time.Hour)
	p.address("metrics.address", c.Metrics.Address)
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

func (p *problems) optionalPath(key, path string) {
	if path != "" {
		p.path(key, path)
	}
}

// credentialProviders wants both of the kubelet's flags or none of them.
func (p *problems) credentialProviders(r Registry) {
	p.optionalPath("registry.credential_provider_config", r.CredentialProviderConfig)
	p.optionalPath("registry.credential_provider_bin_dir", r.CredentialProviderBinDir)
	p.duration("registry.credential_provider_timeout", r.CredentialProviderTimeout, time.Millisecond, 5*time.Minute)
	if config, dir := r.CredentialProviderConfig, r.CredentialProviderBinDir; (config == "") != (dir == "") {
		missing := "config"
		if dir == "" {
			missing = "bin_dir"
		}
		p.add("registry.credential_provider_"+missing, "must be set where its counterpart is, as with the kubelet's flags")
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

// address wants a host, which may be empty, and a port that is a number.
func (p *problems) address(key, address string) {
	if address == "" {
		return
	}
	_, port, err := net.SplitHostPort(address)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		p.add(key, "must be a host and port such as \"127.0.0.1:9465\", is %q", address)
	}
}

// pattern wants a registry host first: references are compared in their full
// form, so that "redis" would never match and silently disable nothing.
func (p *problems) pattern(key, pattern string) {
	first, _, _ := strings.Cut(pattern, "/")
	switch {
	case len(pattern) > maxPattern:
		p.add(key, "is %d bytes long, a pattern may have %d", len(pattern), maxPattern)
	case strings.ContainsFunc(pattern, func(r rune) bool { return r <= ' ' }) || pattern == "":
		p.add(key, "must be a pattern such as \"registry.example/team/*\", is %q", pattern)
	case !strings.ContainsAny(first, ".:*") && first != "localhost":
		p.add(key, "must begin with a registry's host, as in \"docker.io/library/%s\", is %q", first, pattern)
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

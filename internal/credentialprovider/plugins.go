package credentialprovider

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/referee-cri/referee/internal/registry"
)

var errTimeout = errors.New("no answer in time")

// Options say where the kubelet keeps its plugins.
type Options struct {
	Config string // --image-credential-provider-config: a file, or a directory of files
	BinDir string // --image-credential-provider-bin-dir

	// Timeout bounds one run. The kubelet allows a minute; a run of ours delays a
	// pull that could go on without. Default 10s.
	Timeout time.Duration

	// RetryAfter is how soon a plugin may be run again for the same images after a
	// failure, or because a registry refused what it said. Default 10s.
	RetryAfter time.Duration

	Log *zap.Logger // default: silent
}

func (o *Options) setDefaults() {
	if o.Timeout == 0 {
		o.Timeout = 10 * time.Second
	}
	if o.RetryAfter == 0 {
		o.RetryAfter = 10 * time.Second
	}
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
}

// Check tells all that is wrong with a configuration: problems of its files, each
// with file and key, plugins that cannot be run, and providers that want what
// only the kubelet has.
func Check(opts Options) error {
	providers, err := readConfig(opts.Config)
	problems := []error{err}
	for _, p := range providers {
		if p.wantsToken {
			problems = append(problems, fmt.Errorf("%s: provider %q: tokenAttributes: only the kubelet can issue service account tokens, so the plugin is not used here", opts.Config, p.name))
		} else if _, err := exec.LookPath(filepath.Join(opts.BinDir, p.name)); err != nil {
			problems = append(problems, fmt.Errorf("%s: provider %q: find plugin: %w", opts.Config, p.name, err))
		}
	}
	return errors.Join(problems...)
}

// Plugins are the credential provider plugins of a node, as a source of registry
// credentials. They are safe for concurrent use.
type Plugins struct {
	opts Options

	mu         sync.Mutex
	configSeen string // fingerprints of what is in use
	pluginSeen string
	plugins    []*plugin
	closed     bool

	closing chan struct{}  // closed by Close
	runs    sync.WaitGroup // added to under mu while not closed
}

var _ registry.Source = (*Plugins)(nil)

// New reads the configuration. One that is broken or absent is logged, gives no
// credentials, and is read again when it changes; so is a good one, and then the
// one before stays in use if the new is broken. Nothing is run. Call Close.
func New(opts Options) *Plugins {
	opts.setDefaults()
	p := &Plugins{opts: opts, closing: make(chan struct{})}
	p.current()
	return p
}

// Close ends the plugins under way and waits for them. Afterwards there are no
// credentials.
func (p *Plugins) Close() error {
	p.mu.Lock()
	if !p.closed {
		p.closed = true
		close(p.closing)
	}
	p.mu.Unlock()
	p.runs.Wait()
	return nil
}

// Name implements registry.Source.
func (p *Plugins) Name() string { return "credential provider" }

// Credentials implements registry.Source. Every plugin that matches the image is
// asked, at the same time; of what they say, that comes first whose key is the
// most special, as the kubelet has it. The host does not matter: like the
// kubelet's, the credentials are for the image, wherever containerd's
// configuration has its registry mirrored.
func (p *Plugins) Credentials(ctx context.Context, repository, _ string) []registry.Offer {
	image, err := parsePattern(repository)
	if err != nil {
		return nil
	}
	plugins := slices.DeleteFunc(slices.Clone(p.current()), func(one *plugin) bool { return !one.matches(image) })
	answers := make([]answer, len(plugins))
	var asking sync.WaitGroup
	for i, one := range plugins {
		asking.Go(func() { answers[i] = one.ask(ctx, repository) })
	}
	asking.Wait()
	return choose(answers, repository, image)
}

// choose orders what matches the image: longer keys before their prefixes, plain
// ones before globs, which is the reverse order of the keys; of equal ones that
// of the earlier provider. If nothing matches an image of Docker Hub, its old
// name serves.
func choose(answers []answer, repository string, image pattern) []registry.Offer {
	type found struct {
		key   string
		offer registry.Offer
	}
	var matching, hub []found
	for _, a := range answers {
		for _, e := range a.entries {
			one := found{e.key, registry.Offer{Credentials: e.credentials, Expires: a.expires}}
			if e.match.matches(image) {
				matching = append(matching, one)
			}
			if e.key == "index.docker.io" && registryOf(repository) == "docker.io" {
				hub = append(hub, one)
			}
		}
	}
	if len(matching) == 0 {
		matching = hub
	}
	slices.SortStableFunc(matching, func(x, y found) int { return strings.Compare(y.key, x.key) })
	var offers []registry.Offer
	for _, one := range matching {
		if !slices.ContainsFunc(offers, func(o registry.Offer) bool { return o.Credentials == one.offer.Credentials }) {
			offers = append(offers, one.offer)
		}
	}
	return offers
}

// Refused implements registry.Source: an answer older than RetryAfter is dropped.
func (p *Plugins) Refused(repository string, refused registry.Credentials) (askAgain bool) {
	p.mu.Lock()
	plugins := p.plugins
	p.mu.Unlock()
	now := time.Now()
	for _, one := range plugins {
		if one.forget(repository, refused, now) {
			askAgain = true
		}
	}
	return askAgain
}

// current returns the plugins of the configuration as it is now. A change of any
// of its files, or of a plugin, forgets all answers.
func (p *Plugins) current() []*plugin {
	p.mu.Lock()
	defer p.mu.Unlock()
	configNow := configFingerprint(p.opts.Config) // before it is read: what changes while it is will be seen
	if configNow == p.configSeen && fingerprint(p.executables()) == p.pluginSeen {
		return p.plugins
	}
	p.configSeen = configNow
	providers, err := readConfig(p.opts.Config)
	if err != nil {
		p.pluginSeen = fingerprint(p.executables())
		p.opts.Log.Warn("credential provider configuration is not usable", zap.Error(err), zap.Strings("kept", p.names()))
		return p.plugins
	}
	p.plugins = nil
	for _, one := range providers {
		if one.wantsToken {
			p.opts.Log.Warn("credential provider is left out: only the kubelet can issue the service account tokens that its tokenAttributes ask for",
				zap.String("config", p.opts.Config), zap.String("plugin", one.name))
			continue
		}
		p.plugins = append(p.plugins, newPlugin(one, p))
	}
	p.pluginSeen = fingerprint(p.executables())
	p.opts.Log.Info("credential provider plugins", zap.String("config", p.opts.Config), zap.Strings("plugins", p.names()))
	return p.plugins
}

// names are those of the plugins in use. p.mu is held.
func (p *Plugins) names() []string {
	names := make([]string, len(p.plugins))
	for i, one := range p.plugins {
		names[i] = one.name
	}
	return names
}

// executables are their files. p.mu is held.
func (p *Plugins) executables() []string {
	files := p.names()
	for i, name := range files {
		files[i] = filepath.Join(p.opts.BinDir, name)
	}
	return files
}

// goRun runs f in a goroutine that Close ends and awaits; false: it is closed.
// A run serves many callers, so the end of ctx is not its.
func (p *Plugins) goRun(ctx context.Context, f func(context.Context)) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), p.opts.Timeout, errTimeout)
	p.runs.Go(func() {
		select {
		case <-p.closing:
			cancel()
		case <-ctx.Done():
		}
	})
	p.runs.Go(func() {
		defer cancel()
		f(ctx)
	})
	return true
}

package credentialprovider

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	credentialv1 "k8s.io/kubelet/pkg/apis/credentialprovider/v1"

	"github.com/referee-cri/referee/internal/registry"
)

const (
	maxAnswers = 1024        // remembered by one plugin; far more images than a node pulls in a day
	quietTime  = time.Minute // the trouble of one plugin is not logged more often
)

// entry is what a plugin says of images that match key.
type entry struct {
	key         string // "registry.example/team", as in the answer
	match       pattern
	credentials registry.Credentials
}

// answer is what a plugin has said. A failed run is an answer without entries.
type answer struct {
	entries []entry
	at      time.Time // of the run
	expires time.Time // zero: not to be remembered
}

// cacheKey says for which images an answer holds.
type cacheKey struct {
	kind  credentialv1.PluginCacheKeyType // "": of the plugin whose kind of key is not known yet
	value string                          // image or registry, "" for Global
}

func keyOf(kind credentialv1.PluginCacheKeyType, image string) cacheKey {
	switch kind {
	case credentialv1.ImagePluginCacheKeyType:
		return cacheKey{kind, image}
	case credentialv1.RegistryPluginCacheKeyType:
		return cacheKey{kind, registryOf(image)}
	default:
		return cacheKey{kind: kind}
	}
}

func registryOf(image string) string {
	host, _, _ := strings.Cut(image, "/")
	return host
}

// plugin is one provider with what it has answered. Its methods are safe for
// concurrent use.
type plugin struct {
	provider
	set *Plugins

	mu      sync.Mutex
	kind    credentialv1.PluginCacheKeyType // of the last good answer
	answers map[cacheKey]answer
	flights map[cacheKey]*flight
	quiet   time.Time // nothing is logged before
}

// flight is a run under way.
type flight struct {
	image  string
	done   chan struct{} // closed at the end; then:
	answer answer
	failed bool
}

func newPlugin(p provider, set *Plugins) *plugin {
	return &plugin{provider: p, set: set, answers: make(map[cacheKey]answer), flights: make(map[cacheKey]*flight)}
}

// ask returns the plugin's answer for image: a remembered one, that of a run
// under way, or a new one's. Where ctx ends first it is empty, and the run goes
// on for the others.
//
// Which images an answer holds for is known only when it is there. So whoever
// meets a run for another image under the key it would probably share waits for
// it once, and then runs the plugin for itself if the answer was for others.
func (p *plugin) ask(ctx context.Context, image string) answer {
	kind := p.probableKind()
	for {
		p.mu.Lock()
		now := time.Now()
		if a, ok := p.remembered(keyOf(kind, image), image, now); ok {
			p.mu.Unlock()
			return a
		}
		key := keyOf(kind, image)
		f, running := p.flights[key]
		if !running {
			f = p.start(ctx, key, image)
		}
		p.mu.Unlock()
		if f == nil {
			return answer{} // closed
		}
		select {
		case <-f.done:
		case <-ctx.Done():
			return answer{}
		}
		if f.image == image || f.failed {
			return f.answer
		}
		kind = credentialv1.ImagePluginCacheKeyType
	}
}

func (p *plugin) probableKind() credentialv1.PluginCacheKeyType {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.kind
}

// remembered looks an answer up, the most special first as the kubelet does, then
// for a failure under the key that a run would have. p.mu is held.
func (p *plugin) remembered(run cacheKey, image string, now time.Time) (answer, bool) {
	for _, key := range append(keysFor(image), run) {
		a, ok := p.answers[key]
		if ok && now.Before(a.expires) {
			return a, true
		}
		delete(p.answers, key)
	}
	return answer{}, false
}

func keysFor(image string) []cacheKey {
	return []cacheKey{
		keyOf(credentialv1.ImagePluginCacheKeyType, image),
		keyOf(credentialv1.RegistryPluginCacheKeyType, image),
		keyOf(credentialv1.GlobalPluginCacheKeyType, image),
	}
}

// start runs the plugin in a goroutine that Plugins.Close awaits; nil: it is
// closed. p.mu is held.
func (p *plugin) start(ctx context.Context, key cacheKey, image string) *flight {
	f := &flight{image: image, done: make(chan struct{})}
	started := p.set.goRun(ctx, func(ctx context.Context) {
		said, err := p.run(ctx, p.set.opts.BinDir, image)
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.flights, key)
		f.answer, f.failed = p.learn(key, image, said, err), err != nil
		close(f.done)
	})
	if !started {
		return nil
	}
	p.flights[key] = f
	return f
}

// learn remembers what a run brought. p.mu is held.
func (p *plugin) learn(run cacheKey, image string, said *credentialv1.CredentialProviderResponse, err error) answer {
	now := time.Now()
	if err != nil {
		p.complain(now, err)
		failed := answer{at: now, expires: now.Add(p.set.opts.RetryAfter)}
		p.remember(run, failed, now)
		return failed
	}
	p.kind = said.CacheKeyType
	a := answer{entries: entries(said.Auth), at: now}
	keep := p.defaultCache
	if said.CacheDuration != nil {
		keep = said.CacheDuration.Duration
	}
	if keep > 0 {
		a.expires = now.Add(keep)
		p.remember(keyOf(said.CacheKeyType, image), a, now)
	}
	return a
}

// remember makes room where there is none: expired answers go, else the one that
// would be the first to. p.mu is held.
func (p *plugin) remember(key cacheKey, a answer, now time.Time) {
	if len(p.answers) >= maxAnswers {
		var first cacheKey
		var soonest time.Time
		for k, old := range p.answers {
			if now.After(old.expires) {
				delete(p.answers, k)
			} else if soonest.IsZero() || old.expires.Before(soonest) {
				first, soonest = k, old.expires
			}
		}
		if len(p.answers) >= maxAnswers {
			delete(p.answers, first)
		}
	}
	p.answers[key] = a
}

// forget drops the answers that gave creds for image, if they are old enough for
// a new run to bring others.
func (p *plugin) forget(image string, creds registry.Credentials, now time.Time) (forgotten bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, key := range keysFor(image) {
		a, ok := p.answers[key]
		gave := slices.ContainsFunc(a.entries, func(e entry) bool { return e.credentials == creds })
		if ok && gave && now.Sub(a.at) >= p.set.opts.RetryAfter {
			delete(p.answers, key)
			forgotten = true
		}
	}
	return forgotten
}

// complain logs that the plugin gives no credentials, now and then. p.mu is held.
func (p *plugin) complain(now time.Time, err error) {
	if now.Before(p.quiet) {
		return
	}
	p.quiet = now.Add(quietTime)
	p.set.opts.Log.Warn("credential provider plugin gives no credentials", zap.String("plugin", p.name), zap.Error(err))
}

// entries reads the auth field of an answer. A key may have a scheme, and end in
// docker's old "/v1/" or "/v2/", which the kubelet takes off. Without a user name
// there is nothing that containerd would present.
func entries(auth map[string]credentialv1.AuthConfig) []entry {
	var all []entry
	for key, config := range auth {
		if config.Username == "" {
			continue
		}
		key = strings.TrimPrefix(strings.TrimPrefix(key, "https://"), "http://")
		host, path, _ := strings.Cut(key, "/")
		for _, version := range []string{"v1/", "v2/"} {
			path = strings.TrimPrefix(path, version)
		}
		if key = host; path != "" {
			key += "/" + path
		}
		match, err := parsePattern(key)
		if err != nil {
			continue
		}
		all = append(all, entry{key, match, registry.Credentials{Username: config.Username, Password: config.Password}})
	}
	return all
}

package negotiate

import (
	"strings"
	"time"
)

// How long verdicts about a registry are believed. A registry that begins to
// support the referrers API must fold in what its fallback tags list
// (distribution-spec 1.1), so a stale "unsupported" misses nothing but new artifacts.
const (
	supportTTL = time.Hour
	legacyTTL  = 24 * time.Hour // endpoints that no current registry adds
)

// verdict is what a registry has shown about an endpoint.
type verdict int

const (
	unknown verdict = iota
	supported
	unsupported
)

// supportKey is what a verdict holds for: an endpoint, on a host, below the first
// path element of the repository. Artifactory and Harbor put proxies of other
// registries there, whose support differs from their own.
type supportKey struct {
	endpoint Discovery
	host     string
	project  string
}

func supportKeyOf(endpoint Discovery, host, path string) supportKey {
	project, _, nested := strings.Cut(path, "/")
	if !nested {
		project = ""
	}
	return supportKey{endpoint, host, project}
}

// supportBook remembers verdicts.
type supportBook struct{ verdicts *lru[supportKey, verdict] }

func (b supportBook) of(key supportKey) verdict {
	v, _ := b.verdicts.get(key) // unknown where absent
	return v
}

func (b supportBook) note(key supportKey, v verdict) {
	ttl := supportTTL
	if key.endpoint != FoundReferrersAPI {
		ttl = legacyTTL
	}
	if v != unknown {
		b.verdicts.put(key, v, 1, ttl)
	}
}

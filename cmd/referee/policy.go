package main

import (
	"fmt"
	"maps"
	"slices"

	"go.uber.org/zap"

	"github.com/referee-cri/referee/configs"
	"github.com/referee-cri/referee/negotiate"
	"github.com/referee-cri/referee/negotiate/policy"
	"github.com/referee-cri/referee/negotiate/trust/notation"
	"github.com/referee-cri/referee/negotiate/trust/sigstore"
)

// newPolicy makes the policy of the configuration. A trust store that cannot be
// loaded vouches for nobody until it can; the log says so, and what else is odd.
func newPolicy(config *configs.Config, log *zap.Logger) *policy.Policy {
	blocks := policyBlocks(config)
	for _, f := range policy.Lint(blocks, surroundings(config)) {
		log.Warn("policy may not do what it says", zap.String("key", f.Key), zap.String("problem", f.Problem))
	}
	trust := map[string]negotiate.Verifier{}
	for i := range config.Trust {
		t := &config.Trust[i]
		trust[t.Name] = policy.Loaded(t.Name, func() (negotiate.Verifier, error) { return loadTrust(t, log) }, log)
	}
	return policy.Compile(blocks, rules(&configs.Policy{}), trust)
}

// policyBlocks says in negotiation's words what the configuration's blocks say.
func policyBlocks(config *configs.Config) []policy.Block {
	blocks := make([]policy.Block, 0, len(config.Policy))
	for i := range config.Policy {
		p := &config.Policy[i]
		blocks = append(blocks, policy.Block{Match: p.Match, Rules: rules(p), Trust: p.Trust, Written: written(p)})
	}
	return blocks
}

func rules(p *configs.Policy) negotiate.Rules {
	r := negotiate.Rules{MinSize: p.MinBytes(), RequireSignature: p.RequireSignature}
	if p.Formats != nil {
		r.Formats = append([]string{}, *p.Formats...) // not nil: that would be all of them
	}
	switch p.LegacyORAS {
	case "on":
		r.LegacyORAS = negotiate.LegacyOn
	case "auto":
		r.LegacyORAS = negotiate.LegacyAuto
	}
	switch p.ForeignFilesystems {
	case "signed-only":
		r.ForeignFilesystems = negotiate.ForeignSignedOnly
	case "deny":
		r.ForeignFilesystems = negotiate.ForeignDeny
	}
	return r
}

// written names the keys about forms that a block gives a value.
func written(p *configs.Policy) []string {
	var keys []string
	for _, key := range []struct {
		name string
		is   bool
	}{
		{"min_size", p.MinSize != nil},
		{"require_signature", p.RequireSignature},
		{"trust", len(p.Trust) > 0},
		{"legacy_oras", p.LegacyORAS != ""},
		{"foreign_filesystems", p.ForeignFilesystems != ""},
	} {
		if key.is {
			keys = append(keys, key.name)
		}
	}
	return keys
}

func surroundings(config *configs.Config) policy.Surroundings {
	in := policy.Surroundings{Disabled: config.Disabled, Readers: slices.Sorted(maps.Keys(formats(nil)))}
	for i := range config.Trust {
		in.Trust = append(in.Trust, config.Trust[i].Name)
	}
	for _, r := range negotiate.Recognisers() {
		if _, is := r.(negotiate.InPlaceRecogniser); is && len(r.ArtifactTypes()) == 0 {
			in.InPlace = append(in.InPlace, r.Format())
		}
	}
	return in
}

// loadTrust reads the files of a trust block.
func loadTrust(t *configs.Trust, log *zap.Logger) (negotiate.Verifier, error) {
	switch t.Type {
	case "notation":
		return notation.Load(t.Name, notation.Options{
			PolicyFile: t.PolicyFile, TrustStoreDir: t.TrustStore, CRLDir: t.CRLDir, Logger: log,
		})
	case "sigstore":
		opts := sigstore.Options{
			Keys: t.Keys, TrustedRoot: t.TrustedRoot, RequireLog: t.RequireLog,
			RequireTimestamp: t.RequireTimestamp, CheckReference: t.CheckReference, Logger: log,
		}
		for _, id := range t.Identities {
			opts.Identities = append(opts.Identities, sigstore.Identity(id))
		}
		return sigstore.Load(t.Name, opts)
	default:
		return nil, fmt.Errorf("load trust store %s: no such type: %q", t.Name, t.Type)
	}
}

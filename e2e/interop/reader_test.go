package interop_test

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/internal/registry"
	"github.com/referee-cri/referee/negotiate"
)

// newNegotiator is a node with these rules that has asked nothing yet.
func newNegotiator(t *testing.T, rules negotiate.Rules) *negotiate.Negotiator {
	t.Helper()
	client := registry.New(registry.Options{HostDirs: []string{t.TempDir()}})
	t.Cleanup(func() { _ = client.Close() })
	return negotiate.New(negotiate.Options{Client: client, Policy: negotiate.Uniform(rules)})
}

// plan is what a node with these rules decides.
func plan(t *testing.T, ref string, rules negotiate.Rules) *negotiate.Plan {
	t.Helper()
	p, err := newNegotiator(t, rules).Plan(t.Context(), negotiate.Request{Reference: ref, Platform: amd64})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// signedBy are rules that want a signature that one of the trust stores accepts.
func signedBy(stores ...negotiate.Verifier) negotiate.Rules {
	return negotiate.Rules{Name: "prod", RequireSignature: true, Verifiers: stores}
}

// codes tells why each artifact was not taken.
func codes(p *negotiate.Plan) map[digest.Digest]reason.Code {
	why := map[digest.Digest]reason.Code{}
	for _, r := range p.Rejected {
		why[r.Artifact.Digest] = r.Reason
	}
	return why
}

// tree is what is attached to something, and to that.
type tree map[digest.Digest]tree

// inspect returns the trees of the index, nil if there is none, and of the
// manifest, without what is no referrer: forms in place, cosign's tags.
func inspect(t *testing.T, ref string) (index, manifest tree) {
	t.Helper()
	i, err := newNegotiator(t, negotiate.Rules{}).Inspect(t.Context(), negotiate.Request{Reference: ref, Platform: amd64})
	if err != nil {
		t.Fatal(err)
	}
	var grow func(a *negotiate.Attachment) tree
	grow = func(a *negotiate.Attachment) tree {
		if a.Problem != "" {
			t.Errorf("what is attached to %s: %s", a.Descriptor.Digest, a.Problem)
		}
		grown := tree{}
		for _, child := range a.Attached {
			if child.Found != negotiate.FoundInPlace && child.Found != negotiate.FoundCosignTag {
				grown[child.Descriptor.Digest] = grow(child)
			}
		}
		return grown
	}
	if i.Index != nil {
		index = grow(i.Index)
	}
	return index, grow(i.Manifest)
}

// discover returns the tree that `oras discover` lists.
func discover(t *testing.T, oras program, ref string, args ...string) tree {
	t.Helper()
	type node struct {
		Digest    digest.Digest `json:"digest"`
		Referrers []node        `json:"referrers"`
	}
	var root node
	out := oras.run(t, append([]string{"discover", "--plain-http", "--format", "json", ref}, args...)...)
	if err := json.Unmarshal([]byte(out), &root); err != nil {
		t.Fatalf("oras discover printed %q: %v", out, err)
	}
	var grow func(n node) tree
	grow = func(n node) tree {
		grown := tree{}
		for _, child := range n.Referrers {
			grown[child.Digest] = grow(child)
		}
		return grown
	}
	return grow(root)
}

// checkAgreement has oras and Referee list the same under a reference.
func checkAgreement(t *testing.T, oras program, ref string) {
	t.Helper()
	index, manifest := inspect(t, ref)
	if index != nil {
		if diff := cmp.Diff(discover(t, oras, ref), index); diff != "" {
			t.Errorf("attached to the index (-oras +referee):\n%s", diff)
		}
	}
	if diff := cmp.Diff(discover(t, oras, ref, "--platform", "linux/amd64"), manifest); diff != "" {
		t.Errorf("attached to the manifest (-oras +referee):\n%s", diff)
	}
}

package interop_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/referee-cri/referee/internal/conversion"
	"github.com/referee-cri/referee/internal/regtest"
	"github.com/referee-cri/referee/negotiate"
	signnotation "github.com/referee-cri/referee/negotiate/publish/notation"
	signsigstore "github.com/referee-cri/referee/negotiate/publish/sigstore"
)

// TestOrasDiscoversFormsAndTheirSignatures lists what was converted and signed in
// every way.
func TestOrasDiscoversFormsAndTheirSignatures(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, p place) {
		oras, key, issuer := newOras(t), newKeyPair(t), newNotary(t)
		img := p.putImage(t, "app", 2)
		form := p.convert(t, "app", key.sign(signsigstore.SchemeBundle))
		signatures := tree{form.Signature.Digest: {}}
		for _, sign := range []signWith{issuer.sign(t, signnotation.EnvelopeJWS), issuer.sign(t, signnotation.EnvelopeCOSE)} {
			d, err := sign(t.Context(), p.repository(t, "app"), form.Artifact)
			if err != nil {
				t.Fatal(err)
			}
			signatures[d.Digest] = tree{}
		}
		if _, err := key.sign(signsigstore.SchemeTag)(t.Context(), p.repository(t, "app"), form.Artifact); err != nil {
			t.Fatal(err)
		}
		ref := p.ref("app", "1")
		if diff := cmp.Diff(tree{form.Artifact.Digest: signatures}, discover(t, oras, ref)); diff != "" {
			t.Errorf("discovered (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(tree{form.Artifact.Digest: {}}, discover(t, oras, ref, "--depth", "1")); diff != "" {
			t.Errorf("discovered of depth 1 (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(tree{}, discover(t, oras, ref, "--artifact-type", "application/spdx+json")); diff != "" {
			t.Errorf("discovered bills of materials:\n%s", diff)
		}
		checkAgreement(t, oras, ref)

		drawn := oras.run(t, "discover", "--plain-http", "--no-tty", "--format", "tree", ref)
		if indent(drawn, img.Descriptor.Digest) != 0 {
			t.Errorf("the image is not the root of\n%s", drawn)
		}
		for signature := range signatures {
			if above, below := indent(drawn, form.Artifact.Digest), indent(drawn, signature); above <= 0 || below <= above {
				t.Errorf("signature %s does not stand below the form in\n%s", signature, drawn)
			}
		}
	})
}

// indent is the depth at which a tree for people shows a digest, -1 where it does not.
func indent(drawn string, d digest.Digest) int {
	for line := range strings.Lines(drawn) {
		if before, _, found := strings.Cut(line, d.String()); found {
			return strings.Count(before, "│") + strings.Count(before, "    ") + strings.Count(before, "──")
		}
	}
	return -1
}

// TestOrasDiscoversFormsOfSeveralPlatforms lists what is attached to an index, and
// to a manifest in it.
func TestOrasDiscoversFormsOfSeveralPlatforms(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, p place) {
		oras, issuer := newOras(t), newNotary(t)
		p.putIndex(t, "app", 2)
		form := p.convert(t, "app", issuer.sign(t, ""))
		ref := p.ref("app", "1")
		if diff := cmp.Diff(tree{form.Artifact.Digest: {form.Signature.Digest: {}}}, discover(t, oras, ref, "--platform", form.Platform)); diff != "" {
			t.Errorf("discovered of the manifest (-want +got):\n%s", diff)
		}
		index := discover(t, oras, ref)
		for d, signatures := range index {
			if len(index) != 1 || len(signatures) != 1 || d == form.Artifact.Digest {
				t.Errorf("discovered of the index %v, want an index of forms and its signature", index)
			}
		}
		checkAgreement(t, oras, ref)
		if got := plan(t, ref, signedBy(load(t, issuer.store(t, "*")))); !got.Lazy() || got.Chosen.Artifact.Digest != form.Artifact.Digest {
			t.Errorf("%s: %s", got.Reason, got.Detail)
		}
	})
}

// TestOrasAgreesOnTheReferenceImage lists an image with all that other projects'
// converters and cosign attached to it.
func TestOrasAgreesOnTheReferenceImage(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, p place) {
		oras := newOras(t)
		image := p.putReference(t, "lab/tiny", "tiny", "tiny")
		if got := discover(t, oras, p.ref("lab/tiny", "tiny")); len(got) != 6 {
			t.Errorf("oras discovered %v", got)
		}
		checkAgreement(t, oras, p.ref("lab/tiny", "tiny"))
		checkAgreement(t, oras, p.ref("lab/tiny", image.Digest.String()))
	})
}

// TestOrasKnowsNoEndpointsOfItsPast: what is found only by the endpoints from
// before OCI 1.1 the present command line does not see, and a node does.
func TestOrasKnowsNoEndpointsOfItsPast(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		features regtest.Features
		found    negotiate.Discovery
		seen     bool // by oras
	}{
		"first endpoint":  {regtest.Features{ORASPush: true, ORASv1: true}, negotiate.FoundORASv1, false},
		"second endpoint": {regtest.Features{ORASPush: true, ORASv2: true}, negotiate.FoundORASv2, false},
		"neither":         {regtest.Features{ORASPush: true}, negotiate.FoundTagSchema, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, oras := place{host: regtest.New(t, regtest.Options{Features: &tc.features}).Host()}, newOras(t)
			p.putImage(t, "app", 2)
			made, err := conversion.Run(t.Context(), conversion.Options{Source: p.ref("app", "1"), To: conversion.Overlaybd{LegacyORAS: true}, TempDir: t.TempDir()})
			if err != nil {
				t.Fatal(err)
			}
			got := plan(t, p.ref("app", "1"), negotiate.Rules{LegacyORAS: negotiate.LegacyOn})
			if !got.Lazy() || got.Chosen.Artifact.Digest != made[0].Artifact.Digest || got.Chosen.Found != tc.found {
				t.Errorf("%s: %s, chosen %+v", got.Reason, got.Detail, got.Chosen)
			}
			// Below an ORAS artifact oras 1.3 cannot look, and fails if it is to.
			if _, seen := discover(t, oras, p.ref("app", "1"), "--depth", "1")[made[0].Artifact.Digest]; seen != tc.seen {
				t.Errorf("seen by oras: %t, want %t", seen, tc.seen)
			}
		})
	}
}

package conversion_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/internal/conversion"
	"github.com/referee-cri/referee/internal/regtest"
	"github.com/referee-cri/referee/negotiate"
)

// TestSOCIGivesTheBytesOfItsOwnTools converts the reference image with the options
// that SOCI's own tools were run with: all manifests and tables have the same digests.
func TestSOCIGivesTheBytesOfItsOwnTools(t *testing.T) {
	t.Parallel()
	options := conversion.SOCI{SpanSize: 256 << 10}
	for name, tc := range map[string]struct {
		target    conversion.Target
		reference string // of what is made
		artifact  digest.Digest
	}{
		"v1": {options, "", "sha256:f42a025426f424369d9769d2037a82c7e9060e66fcecfcaecb694974d5e232cd"},
		"v2": {conversion.SOCIv2{SOCI: options}, "made", "sha256:1cabb77e31718533ef2cbc40ddc8c7289cfd142e6bf2e3aeb914abd1395d692f"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reg := regtest.New(t, regtest.Options{})
			source := load(t)
			copyTag(t, source, reg, "tiny")
			made, err := conversion.Run(t.Context(), conversion.Options{Source: reg.Ref("app", "tiny"), To: tc.target, Reference: tc.reference, TempDir: t.TempDir()})
			if err != nil {
				t.Fatal(err)
			}
			if len(made) != 1 || made[0].Artifact.Digest != tc.artifact {
				t.Errorf("made %+v, want %s", made, tc.artifact)
			}
			if tc.reference == "" {
				if p := plan(t, reg.Ref("app", "tiny"), "linux/amd64"); !p.Lazy() || p.Chosen.Format != "soci" || p.Chosen.Artifact.Digest != tc.artifact {
					t.Errorf("a node finds %+v: %s %s", p.Chosen, p.Reason, p.Detail)
				}
				return
			}
			want, index := fetch[ocispec.Index](t, source.Ref("app", "tiny-soci-v2"))
			got, own := fetch[ocispec.Index](t, reg.Ref("app", tc.reference))
			if diff := cmp.Diff(index, own); diff != "" || got.Digest != want.Digest {
				t.Errorf("index %s, want %s (-soci +referee):\n%s", got.Digest, want.Digest, diff)
			}
			if p := plan(t, reg.Ref("app", tc.reference), "linux/amd64"); !p.Lazy() || p.Chosen.Format != "soci" || p.Chosen.Found != negotiate.FoundInPlace {
				t.Errorf("a node finds %+v: %s %s", p.Chosen, p.Reason, p.Detail)
			}
		})
	}
}

func TestSOCIv2InAnotherRepositoryBringsTheLayers(t *testing.T) {
	t.Parallel()
	reg := regtest.New(t, regtest.Options{})
	if _, err := reg.LoadLayout("hello", layout(t)); err != nil {
		t.Fatal(err)
	}
	made, err := conversion.Run(t.Context(), conversion.Options{
		Source: reg.Ref("hello", "multi-arch"), To: conversion.SOCIv2{}, Reference: reg.Ref("other/hello", "lazy"), TempDir: t.TempDir(),
		Platforms: []string{"linux/amd64", "linux/arm64"},
	})
	if err != nil {
		t.Fatal(err)
	}
	_, index := fetch[ocispec.Index](t, reg.Ref("other/hello", "lazy"))
	if len(made) != 2 || len(index.Manifests) != 4 {
		t.Fatalf("made %d images, index of %d entries", len(made), len(index.Manifests))
	}
	for i, entry := range index.Manifests {
		if isTables := entry.ArtifactType != ""; isTables != (i >= 2) {
			t.Errorf("entry %d is %+v: images must stand before tables", i, entry)
		}
	}
	// A client that knows nothing of SOCI copies the image: everything is there.
	if again, err := conversion.Run(t.Context(), conversion.Options{Source: reg.Ref("other/hello", "lazy"), TempDir: t.TempDir()}); err != nil || len(again) != 2 {
		t.Errorf("converted again to %d forms, %v", len(again), err)
	}
}

func TestSOCILeavesSmallLayersOut(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		least  int64
		tables int // 0: an error
	}{
		"every layer": {0, 4},
		"the largest": {1 << 20, 1},
		"none":        {conversion.DefaultMinLayerSize, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reg := load(t)
			made, err := conversion.Run(t.Context(), conversion.Options{Source: reg.Ref("app", "tiny"), To: conversion.SOCI{MinLayerSize: tc.least}, TempDir: t.TempDir()})
			switch {
			case tc.tables == 0 && (err == nil || !strings.Contains(err.Error(), "no layer can be indexed")):
				t.Errorf("made %+v, %v", made, err)
			case tc.tables > 0 && (err != nil || len(made[0].Layers) != tc.tables):
				t.Errorf("made %+v, %v, want %d tables", made, err, tc.tables)
			}
		})
	}
}

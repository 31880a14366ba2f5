package conversion_test

import (
	"context"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/internal/conversion"
	"github.com/referee-cri/referee/internal/registry"
	"github.com/referee-cri/referee/internal/regtest"
	"github.com/referee-cri/referee/internal/testdata"
	"github.com/referee-cri/referee/negotiate"
)

// plan asks the reading side what it finds for one platform.
func plan(t *testing.T, ref, platform string) *negotiate.Plan {
	t.Helper()
	client := registry.New(registry.Options{HostDirs: []string{t.TempDir()}})
	t.Cleanup(func() { _ = client.Close() })
	n := negotiate.New(negotiate.Options{
		Client: client,
		Policy: negotiate.Uniform(negotiate.Rules{LegacyORAS: negotiate.LegacyOn}),
	})
	os, arch, _ := strings.Cut(platform, "/")
	p, err := n.Plan(t.Context(), negotiate.Request{Reference: ref, Platform: &ocispec.Platform{OS: os, Architecture: arch}})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// layout is a multi-platform image that other people made.
func layout(t *testing.T) string {
	t.Helper()
	return filepath.Join(testdata.Dir(t, "overlaybd"), "real", "layouts", "hello-world-e2e")
}

func TestRunConvertsEveryLinuxPlatform(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		tag       string
		platforms []string
		legacy    bool
		attached  []string // platforms that must have got a form
	}{
		"multi-platform index":        {"multi-arch", nil, false, []string{"linux/amd64", "linux/arm64"}},
		"index within an index":       {"nested-index", nil, false, []string{"linux/amd64"}},
		"only the platform asked for": {"multi-arch", []string{"linux/arm64"}, false, []string{"linux/arm64"}},
		"as ORAS artifacts":           {"multi-arch", []string{"linux/amd64", "linux/arm64"}, true, []string{"linux/amd64", "linux/arm64"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reg := regtest.New(t, regtest.Options{})
			reg.Configure(func(f *regtest.Features) { f.ORASv2 = tc.legacy })
			if _, err := reg.LoadLayout("hello", layout(t)); err != nil {
				t.Fatal(err)
			}
			ref := reg.Ref("hello", tc.tag)
			attached, err := conversion.Run(t.Context(), conversion.Options{Source: ref, Platforms: tc.platforms, To: conversion.Overlaybd{LegacyORAS: tc.legacy}, TempDir: t.TempDir()})
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, one := range attached {
				got = append(got, one.Platform)
			}
			for _, platform := range tc.attached {
				if !slices.ContainsFunc(got, func(g string) bool { return strings.HasPrefix(g, platform) }) {
					t.Errorf("%s is not among %v", platform, got)
				}
				if p := plan(t, ref, platform); !p.Lazy() {
					t.Errorf("%s: %s: %s", platform, p.Reason, p.Detail)
				}
			}
			if len(tc.platforms) > 0 && len(got) != len(tc.platforms) {
				t.Errorf("converted %v, want %v only", got, tc.platforms)
			}
		})
	}
}

func TestRunIsDeterministic(t *testing.T) {
	t.Parallel()
	var artifacts []ocispec.Descriptor
	for range 2 {
		reg := regtest.New(t, regtest.Options{})
		if _, err := reg.LoadLayout("hello", layout(t)); err != nil {
			t.Fatal(err)
		}
		attached, err := conversion.Run(t.Context(), conversion.Options{
			Source: "oci:" + layout(t) + ":amd64", Destination: reg.Ref("hello", "amd64"), TempDir: t.TempDir(),
		})
		if err != nil || len(attached) != 1 {
			t.Fatalf("attached %v, %v", attached, err)
		}
		artifacts = append(artifacts, attached[0].Artifact)
	}
	if artifacts[0].Digest != artifacts[1].Digest {
		t.Errorf("two conversions of one image: %s and %s", artifacts[0].Digest, artifacts[1].Digest)
	}
}

func TestRunSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	reg := regtest.New(t, regtest.Options{})
	if _, err := reg.LoadLayout("hello", layout(t)); err != nil {
		t.Fatal(err)
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for name, tc := range map[string]struct {
		ctx  context.Context //nolint:containedctx // a test case
		opts conversion.Options
		want string
	}{
		"unknown tag":              {t.Context(), conversion.Options{Source: reg.Ref("hello", "nothing")}, "resolve"},
		"no such platform":         {t.Context(), conversion.Options{Source: reg.Ref("hello", "multi-arch"), Platforms: []string{"linux/s390x-none"}}, "no Linux image"},
		"layout without a target":  {t.Context(), conversion.Options{Source: "oci:" + layout(t) + ":amd64"}, "--repository"},
		"layout that is not there": {t.Context(), conversion.Options{Source: "oci:/nonexistent:tag"}, "OCI layout"},
		"not a reference":          {t.Context(), conversion.Options{Source: "::"}, "reference"},
		"cancelled":                {cancelled, conversion.Options{Source: reg.Ref("hello", "amd64")}, "context canceled"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := conversion.Run(tc.ctx, tc.opts)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want an error with %q", err, tc.want)
			}
		})
	}
}

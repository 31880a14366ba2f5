package conversion_test

import (
	"context"
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/registry/remote"

	"github.com/referee-cri/referee/internal/conversion"
	"github.com/referee-cri/referee/internal/regtest"
	"github.com/referee-cri/referee/internal/testdata"
	"github.com/referee-cri/referee/lazyblock/convert/stargz"
	"github.com/referee-cri/referee/negotiate"
)

// fetch reads a manifest, an index or a config of a test registry.
func fetch[T any](t *testing.T, ref string) (d ocispec.Descriptor, parsed T) {
	t.Helper()
	repo, err := remote.NewRepository(ref)
	if err != nil {
		t.Fatal(err)
	}
	repo.PlainHTTP = true
	if d, err = repo.Resolve(t.Context(), repo.Reference.Reference); err != nil {
		t.Fatal(err)
	}
	raw, err := content.FetchAll(t.Context(), repo, d)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &parsed); err != nil {
		t.Fatal(err)
	}
	return d, parsed
}

// fetchBytes reads a blob of the repository "app".
func fetchBytes(t *testing.T, reg *regtest.Registry, d ocispec.Descriptor) []byte {
	t.Helper()
	repo, err := remote.NewRepository(reg.Host() + "/app")
	if err != nil {
		t.Fatal(err)
	}
	repo.PlainHTTP = true
	raw, err := content.FetchAll(t.Context(), repo.Blobs(), d)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// load serves the reference image, and all that is attached to it, as repository "app".
func load(t *testing.T) *regtest.Registry {
	t.Helper()
	reg := regtest.New(t, regtest.Options{})
	if _, err := reg.LoadLayout("app", filepath.Join(testdata.Dir(t, "reference"), "tiny")); err != nil {
		t.Fatal(err)
	}
	return reg
}

func TestNewImagesAreFoundUnderTheirOwnReference(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		target    conversion.Target
		format    string // as the reading side calls it
		mediaType string
	}{
		"estargz":      {conversion.Stargz{}, "estargz", ocispec.MediaTypeImageLayerGzip},
		"zstd-chunked": {conversion.Stargz{Format: stargz.ZstdChunked}, "zstdchunked", ocispec.MediaTypeImageLayerZstd},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reg := load(t)
			original, before := fetch[ocispec.Manifest](t, reg.Ref("app", "tiny"))
			made, err := conversion.Run(t.Context(), conversion.Options{
				Source: reg.Ref("app", "tiny"), To: tc.target, Reference: "lazy", TempDir: t.TempDir(),
			})
			if err != nil || len(made) != 1 {
				t.Fatalf("made %+v, %v", made, err)
			}
			after, manifest := fetch[ocispec.Manifest](t, reg.Ref("app", "lazy"))
			if made[0].Artifact.Digest != after.Digest || made[0].Subject.Digest != original.Digest || made[0].Reference != reg.Ref("app", "lazy") || made[0].Keeps == "" {
				t.Errorf("said %+v, found %s", made[0], after.Digest)
			}
			if again, _ := fetch[ocispec.Manifest](t, reg.Ref("app", "tiny")); again.Digest != original.Digest {
				t.Errorf("the original's tag moved to %s", again.Digest)
			}
			for i, layer := range manifest.Layers {
				if layer.MediaType != tc.mediaType || layer.Digest == before.Layers[i].Digest {
					t.Errorf("layer %d is %+v", i, layer)
				}
			}
			p := plan(t, reg.Ref("app", "lazy"), "linux/amd64")
			if !p.Lazy() || p.Chosen.Format != tc.format || p.Chosen.Found != negotiate.FoundInPlace || len(p.Chosen.Layers) != len(before.Layers) {
				t.Errorf("a node finds %+v: %s %s", p.Chosen, p.Reason, p.Detail)
			}
		})
	}
}

func TestNewImageOfSeveralPlatformsIsAnIndex(t *testing.T) {
	t.Parallel()
	reg := regtest.New(t, regtest.Options{})
	if _, err := reg.LoadLayout("hello", layout(t)); err != nil {
		t.Fatal(err)
	}
	var remarks []string
	var signed []digest.Digest
	made, err := conversion.Run(t.Context(), conversion.Options{
		Source: reg.Ref("hello", "multi-arch"), To: conversion.Stargz{}, Reference: reg.Ref("other/hello", "lazy"), TempDir: t.TempDir(),
		Platforms: []string{"linux/amd64", "linux/arm64"},
		Remark:    func(text string) { remarks = append(remarks, text) },
		Sign: func(_ context.Context, _ *remote.Repository, subject ocispec.Descriptor) (ocispec.Descriptor, error) {
			signed = append(signed, subject.Digest)
			return subject, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	whole, index := fetch[ocispec.Index](t, reg.Ref("other/hello", "lazy"))
	_, source := fetch[ocispec.Index](t, reg.Ref("hello", "multi-arch"))
	if len(index.Manifests) != len(made) || len(made) != 2 {
		t.Fatalf("made %d images, index of %d", len(made), len(index.Manifests))
	}
	for i, entry := range index.Manifests {
		if entry.Digest != made[i].Artifact.Digest || entry.Platform == nil || !strings.HasPrefix(made[i].Platform, "linux/"+entry.Platform.Architecture) {
			t.Errorf("entry %d is %+v", i, entry)
		}
		if p := plan(t, reg.Ref("other/hello", "lazy"), "linux/"+entry.Platform.Architecture); !p.Lazy() || p.Chosen.Format != "estargz" {
			t.Errorf("a node finds %+v: %s %s", p.Chosen, p.Reason, p.Detail)
		}
	}
	if left := len(source.Manifests) - len(made); len(remarks) != left || !strings.Contains(strings.Join(remarks, "\n"), "left out of the new image: ") {
		t.Errorf("%d entries were left out, said was %q", left, remarks)
	}
	if want := []digest.Digest{made[0].Artifact.Digest, made[1].Artifact.Digest, whole.Digest}; !slices.Equal(signed, want) {
		t.Errorf("signed %v, want %v", signed, want)
	}
}

func TestNewImageNeedsAReferenceOfItsOwn(t *testing.T) {
	t.Parallel()
	reg := load(t)
	ref := reg.Ref("app", "tiny")
	for name, tc := range map[string]struct {
		opts conversion.Options
		want string
	}{
		"none":                            {conversion.Options{Source: ref, To: conversion.Stargz{}}, "--tag"},
		"the original's":                  {conversion.Options{Source: ref, To: conversion.Stargz{}, Reference: "tiny"}, "the image itself"},
		"the original's, written out":     {conversion.Options{Source: ref, To: conversion.Stargz{}, Reference: ref}, "the image itself"},
		"a digest":                        {conversion.Options{Source: ref, To: conversion.Stargz{}, Reference: reg.Host() + "/app@" + digest.FromString("x").String()}, "reference of the new image"},
		"without a tag":                   {conversion.Options{Source: ref, To: conversion.Stargz{}, Reference: reg.Host() + "/app"}, "reference of the new image"},
		"for a form that is attached":     {conversion.Options{Source: ref, Reference: "lazy"}, "takes no reference"},
		"a tag, of a layout without home": {conversion.Options{Source: "oci:" + layout(t) + ":amd64", To: conversion.Stargz{}, Reference: "lazy"}, "--repository"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tc.opts.TempDir = t.TempDir()
			if _, err := conversion.Run(t.Context(), tc.opts); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want an error with %q", err, tc.want)
			}
		})
	}
}

// copyTag copies an image, and nothing that is attached to it.
func copyTag(t *testing.T, from, to *regtest.Registry, tag string) {
	t.Helper()
	repos := make([]*remote.Repository, 2)
	for i, reg := range []*regtest.Registry{from, to} {
		var err error
		if repos[i], err = remote.NewRepository(reg.Ref("app", tag)); err != nil {
			t.Fatal(err)
		}
		repos[i].PlainHTTP = true
	}
	if _, err := oras.Copy(t.Context(), repos[0], tag, repos[1], tag, oras.DefaultCopyOptions); err != nil {
		t.Fatal(err)
	}
}

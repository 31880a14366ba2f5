package e2e_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/e2e/node"
	"github.com/referee-cri/referee/fallback"
	"github.com/referee-cri/referee/internal/regtest"
	"github.com/referee-cri/referee/internal/testdata"
	"github.com/referee-cri/referee/negotiate"
)

// versions are the containerd releases that every basic promise is kept with.
var versions = []string{node.Containerd, node.ContainerdOld}

// TestStockReferrer pulls an image whose overlaybd form was written and attached
// by the original converter.
func TestStockReferrer(t *testing.T) {
	t.Parallel()
	for _, version := range versions {
		t.Run("containerd "+version, func(t *testing.T) {
			t.Parallel()
			b := newBed(t, node.Options{Containerd: version}, "")
			ref := b.pushTiny(t)
			entry := b.pull(t, ref, fallback.Lazy)
			if entry.Found != negotiate.FoundReferrersAPI || entry.Format != "overlaybd" {
				t.Errorf("found %q by %q", entry.Format, entry.Found)
			}
			container := start(t, b.lazy, ref, "/bin/busybox", "sleep", "1000")
			out, err := container.Output(t.Context(), "/bin/busybox", "echo", "answers")
			if err != nil || out != "answers\n" {
				t.Fatalf("container says %q, %v", out, err)
			}
			expectTree(t, loadTree(t, "tiny.tree.jsonl"), treeOf(t, b.Node, container),
				slices.Concat(madeByRuntime, stockDiffers, unlikeOverlay)...)
			if lower := lowerDirs(t, b.Node, container); len(lower) != 1 {
				t.Errorf("the container stands on %d directories, want one: %v", len(lower), lower)
			}
			for _, want := range []string{"lazy", "overlaybd", entry.Artifact.String(), "referrers-api"} {
				if text := b.run(t, "explain", ref); !strings.Contains(text, want) {
					t.Errorf("explain does not say %q:\n%s", want, text)
				}
			}
		})
	}
}

// lowerDirs are the directories that the container's root is laid over.
func lowerDirs(t *testing.T, n *node.Node, container *node.Container) []string {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if !strings.Contains(line, n.State()) || !strings.Contains(line, container.ID+"/rootfs ") {
			continue
		}
		for option := range strings.SplitSeq(strings.TrimSpace(line), ",") {
			if dirs, ok := strings.CutPrefix(option, "lowerdir="); ok {
				return strings.Split(dirs, ":")
			}
		}
	}
	return nil
}

// TestMirror pulls from a host that exists only in certs.d.
func TestMirror(t *testing.T) {
	t.Parallel()
	b := newBed(t, node.Options{}, "")
	b.pushTiny(t)
	if err := b.PointHost("mirrored.test", node.Endpoint{URL: b.registry.URL()}); err != nil {
		t.Fatal(err)
	}
	b.pull(t, "mirrored.test/tiny:tiny", fallback.Lazy)
	container := start(t, b.lazy, "mirrored.test/tiny:tiny", "/bin/busybox", "sleep", "1000")
	if _, err := container.Output(t.Context(), "/bin/busybox", "md5sum", "/data/random.bin"); err != nil {
		t.Error(err)
	}
}

// TestConvertedReferrer pulls the form that `referee convert` attached, by each
// way in which a registry may list it.
func TestConvertedReferrer(t *testing.T) {
	t.Parallel()
	reference := filepath.Join(testdata.Dir(t, "reference"), "tiny")
	for name, tc := range map[string]struct {
		features func(*regtest.Features)
		flags    []string
		found    negotiate.Discovery
	}{
		"referrers API":                 {func(*regtest.Features) {}, nil, negotiate.FoundReferrersAPI},
		"zstd":                          {func(*regtest.Features) {}, []string{"--algorithm", "zstd"}, negotiate.FoundReferrersAPI},
		"tag schema":                    {func(f *regtest.Features) { f.Referrers = false }, nil, negotiate.FoundTagSchema},
		"ORAS artifact, newer endpoint": {func(f *regtest.Features) { f.Referrers, f.ORASv2 = false, true }, []string{"--legacy-oras"}, negotiate.FoundORASv2},
		"ORAS artifact, older endpoint": {func(f *regtest.Features) { f.Referrers, f.ORASv1 = false, true }, []string{"--legacy-oras"}, negotiate.FoundORASv1},
		"ORAS artifact, no endpoint":    {func(f *regtest.Features) { f.Referrers = false }, []string{"--legacy-oras"}, negotiate.FoundTagSchema},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBed(t, node.Options{}, "")
			b.registry.Configure(tc.features)
			ref := b.pushOriginal(t, reference)
			out := b.run(t, append([]string{"convert", ref, "--to", "overlaybd"}, tc.flags...)...)
			if !strings.Contains(out, "4 layers") {
				t.Errorf("convert says %q", out)
			}
			b.registry.ResetRequests()
			if entry := b.pull(t, ref, fallback.Lazy); entry.Found != tc.found {
				t.Errorf("found by %q, want %q", entry.Found, tc.found)
			}
			b.expectNoLayerFetched(t, reference, "tiny")
			container := start(t, b.lazy, ref, "/bin/busybox", "sleep", "1000")
			expectTree(t, loadTree(t, "tiny.tree.jsonl"), treeOf(t, b.Node, container), slices.Concat(madeByRuntime, unlikeOverlay)...)
		})
	}
}

// pushOriginal pushes the image tagged tiny in layout, without anything that is
// attached to it there, and returns its reference.
func (b *bed) pushOriginal(t *testing.T, layout string) string {
	t.Helper()
	const tag = "tiny"
	image := readLayout(t, layout, tag)
	for _, blob := range append([]ocispec.Descriptor{image.manifest.Config}, image.manifest.Layers...) {
		b.putBlob(t, layout, blob)
	}
	if _, err := b.registry.PutManifest(tag, tag, image.descriptor.MediaType, image.bytes); err != nil {
		t.Fatal(err)
	}
	return b.registry.Ref(tag, tag)
}

// expectNoLayerFetched fails if the registry served an original layer.
func (b *bed) expectNoLayerFetched(t *testing.T, layout, tag string) {
	t.Helper()
	for _, layer := range readLayout(t, layout, tag).manifest.Layers {
		requests, bytes := b.registry.Count(func(e regtest.Entry) bool { return strings.HasSuffix(e.Path, layer.Digest.String()) })
		if requests > 0 {
			t.Errorf("original layer %s: %d requests, %d bytes", layer.Digest, requests, bytes)
		}
	}
}

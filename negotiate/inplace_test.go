package negotiate_test

import (
	"encoding/json"
	"maps"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/internal/regtest"
	"github.com/referee-cri/referee/negotiate"
)

const (
	zstdLayer      = "application/vnd.oci.image.layer.v1.tar+zstd"
	keyTOC         = "containerd.io/snapshot/stargz/toc.digest"
	dialectA       = "io.containers.zstd-chunked."
	dialectB       = "io.github.containers.zstd-chunked."
	keySOCIIndex   = "com.amazon.soci.index-digest"
	keySOCIOfImage = "com.amazon.soci.image-manifest-digest"
)

// putMarked stores app:1 again with layers (and the manifest) marked by change.
func putMarked(t *testing.T, reg *regtest.Registry, img *regtest.Image, change func(m *ocispec.Manifest)) {
	t.Helper()
	change(&img.Manifest)
	platform := img.Descriptor.Platform
	d, err := reg.PutJSON("app", "1", ocispec.MediaTypeImageManifest, img.Manifest)
	if err != nil {
		t.Fatal(err)
	}
	img.Descriptor = d
	img.Descriptor.Platform = platform
}

// marks sets media type and annotations of the layers from the bottom; nil leaves one alone.
func marks(mediaType string, layers ...map[string]string) func(*ocispec.Manifest) {
	return func(m *ocispec.Manifest) {
		for i, annotations := range layers {
			if annotations != nil || mediaType == erofsLayer {
				m.Layers[i].MediaType, m.Layers[i].Annotations = mediaType, annotations
			}
		}
	}
}

// sized says that the layers have these sizes, beside what change does.
func sized(change func(*ocispec.Manifest), sizes ...int64) func(*ocispec.Manifest) {
	return func(m *ocispec.Manifest) {
		change(m)
		for i, size := range sizes {
			m.Layers[i].Size = size
		}
	}
}

func toc() map[string]string { return map[string]string{keyTOC: digest.FromString("toc").String()} }

func chunked(dialect, position string) map[string]string {
	return map[string]string{dialect + "manifest-checksum": digest.FromString("toc").String(), dialect + "manifest-position": position}
}

func both(a, b map[string]string) map[string]string {
	maps.Copy(a, b)
	return a
}

// TestFormsInPlace goes through the rows of the specification's section 4 that
// are the image itself. Its two layers are some 4 KiB each.
func TestFormsInPlace(t *testing.T) {
	t.Parallel()
	const gzip, good = ocispec.MediaTypeImageLayerGzip, "1000:200:900:1"
	for name, tc := range map[string]struct {
		change  func(*ocispec.Manifest)
		format  string
		code    reason.Code
		foreign bool
	}{
		"an ordinary image":          {func(*ocispec.Manifest) {}, "", reason.NoReferrers, false},
		"eStargz":                    {marks(gzip, toc(), toc()), "estargz", "", false},
		"eStargz, table outside":     {marks(gzip, toc(), toc()), "estargz", "", false}, // looks the same from here
		"eStargz above an old base":  {sized(marks(gzip, nil, toc()), 60<<20, 70<<20), "estargz", "", false},
		"eStargz below a new layer":  {sized(marks(gzip, toc(), nil), 70<<20, 60<<20), "estargz", "", false},
		"eStargz above a large base": {sized(marks(gzip, nil, toc()), 65<<20, 700<<20), "", reason.NoMatch, false},
		"eStargz on most of it":      {sized(marks(gzip, nil, toc()), 60<<20, 50<<20), "", reason.NoMatch, false},
		"eStargz, digest is none":    {marks(gzip, toc(), map[string]string{keyTOC: "sha256:x"}), "", reason.ArtifactInvalid, false},
		"eStargz, digest is empty":   {marks(gzip, toc(), map[string]string{keyTOC: ""}), "", reason.ArtifactInvalid, false},
		"zstd:chunked, stargz":       {marks(zstdLayer, both(chunked(dialectA, good), toc()), both(chunked(dialectA, good), toc())), "zstdchunked", "", false},
		"zstd:chunked, containers":   {marks(zstdLayer, chunked(dialectB, good), chunked(dialectB, good)), "zstdchunked", "", false},
		"zstd:chunked, both":         {marks(zstdLayer, chunked(dialectA, good), chunked(dialectB, good)), "zstdchunked", "", false},
		"zstd:chunked on an old one": {sized(marks(zstdLayer, nil, chunked(dialectB, good)), 1<<20, 50<<20), "zstdchunked", "", false},
		"zstd:chunked on zstd":       {sized(marks(zstdLayer, map[string]string{}, chunked(dialectB, good)), 1<<20, 50<<20), "zstdchunked", "", false},
		"zstd:chunked, no position":  {marks(zstdLayer, chunked(dialectA, good), chunked(dialectA, "")), "", reason.ArtifactInvalid, false},
		"zstd:chunked, three":        {marks(zstdLayer, chunked(dialectA, good), chunked(dialectA, "1:2:3")), "", reason.ArtifactInvalid, false},
		"zstd:chunked, five":         {marks(zstdLayer, chunked(dialectA, good), chunked(dialectA, "1:2:3:1:1")), "", reason.ArtifactInvalid, false},
		"zstd:chunked, negative":     {marks(zstdLayer, chunked(dialectA, good), chunked(dialectA, "-1:2:3:1")), "", reason.ArtifactInvalid, false},
		"zstd:chunked, words":        {marks(zstdLayer, chunked(dialectA, good), chunked(dialectA, "a:b:c:d")), "", reason.ArtifactInvalid, false},
		"zstd:chunked, other type":   {marks(zstdLayer, chunked(dialectA, good), chunked(dialectA, "1000:200:900:2")), "", reason.ArtifactInvalid, false},
		"zstd:chunked, outside":      {marks(zstdLayer, chunked(dialectA, good), chunked(dialectA, "9000000:200:900:1")), "", reason.ArtifactInvalid, false},
		"zstd:chunked, overflow":     {marks(zstdLayer, chunked(dialectA, good), chunked(dialectA, "9223372036854775807:200:900:1")), "", reason.ArtifactInvalid, false},
		"zstd:chunked, bomb":         {marks(zstdLayer, chunked(dialectA, good), chunked(dialectA, "1000:200:9000000000:1")), "", reason.ArtifactInvalid, false},
		"zstd:chunked, no checksum": {
			marks(zstdLayer, chunked(dialectA, good), map[string]string{dialectA + "manifest-checksum": "x", dialectA + "manifest-position": good}), "",
			reason.ArtifactInvalid, false,
		},
		"EROFS":                    {marks(erofsLayer, nil, nil), "erofs", "", true},
		"EROFS, one of two layers": {marks(erofsLayer, nil), "", reason.NoMatch, false},
		"SOCI v2, by manifest":     {sociMarked, "soci", "", false},
		"SOCI v2, index is gone":   {sociMark(digest.FromString("index").String()), "", reason.NotFound, false},
		"SOCI v2, digest is none":  {sociMark("sha256:x"), "", reason.ArtifactInvalid, false},
		"SOCI v2, beside other forms": {func(m *ocispec.Manifest) {
			sociMark(digest.FromString("index").String())(m)
			marks(gzip, toc(), toc())(m)
		}, "estargz", "", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reg := regtest.New(t, regtest.Options{})
			img := putImage(t, reg, "app", "", regtest.ImageSpec{})
			if _, err := reg.PutJSON("app", "", ocispec.MediaTypeImageManifest, sociV2(img.Manifest.Layers...)); err != nil {
				t.Fatal(err)
			}
			putMarked(t, reg, img, tc.change)
			p := plan(t, newNegotiator(t, negotiate.Options{}), reg.Ref("app", "1"))
			if p.Reason != tc.code || p.Lazy() != (tc.format != "") {
				t.Fatalf("%s: %s, want %s", p.Reason, p.Detail, tc.code)
			}
			want := 3 // manifest, config, referrers
			if strings.HasPrefix(name, "SOCI v2") && tc.code != reason.ArtifactInvalid && tc.format != "estargz" {
				want++ // the SOCI index
			}
			if n, _ := reg.Count(nil); n != want {
				t.Errorf("requests %q", requests(reg))
			}
			if tc.format == "" {
				return
			}
			c := p.Chosen
			if c.Format != tc.format || c.Found != negotiate.FoundInPlace || !c.Bound || c.Foreign != tc.foreign ||
				c.Fit != negotiate.FitLayers || len(c.Layers) != 2 || c.Subject != img.Descriptor.Digest {
				t.Errorf("chosen %+v", c)
			}
			if c.Format != "soci" && c.Artifact.Digest != img.Descriptor.Digest {
				t.Errorf("artifact %+v", c.Artifact)
			}
			if len(p.Rejected) == 0 {
				checkNotAttachable(t, reg, tc.format, c.Artifact)
			}
		})
	}
}

// sociMarked has a manifest name the SOCI index of its layers.
func sociMarked(m *ocispec.Manifest) {
	index, err := json.Marshal(sociV2(m.Layers...))
	if err != nil {
		panic(err)
	}
	sociMark(digest.FromBytes(index).String())(m)
}

func sociMark(index string) func(*ocispec.Manifest) {
	return func(m *ocispec.Manifest) { m.Annotations = map[string]string{keySOCIIndex: index} }
}

// imageLayers are the layers of an image without a spec, the same in every registry.
func imageLayers(t *testing.T) []ocispec.Descriptor {
	t.Helper()
	return putImage(t, regtest.New(t, regtest.Options{}), "app", "", regtest.ImageSpec{}).Manifest.Layers
}

// TestFormsInTheIndex goes through the rows of section 4 that are entries of the
// image's own index. Every entry must leave the image chosen as it is.
func TestFormsInTheIndex(t *testing.T) {
	t.Parallel()
	alternative := regtest.ImageSpec{Seed: 5}
	index := putImage(t, regtest.New(t, regtest.Options{}), "app", "", alternative).Descriptor // the same in every registry
	sociIndex, err := regtest.New(t, regtest.Options{}).PutJSON("app", "", ocispec.MediaTypeImageManifest, sociV2(imageLayers(t)...))
	if err != nil {
		t.Fatal(err)
	}
	const self, stranger = "SELF", "sha256:0000000000000000000000000000000000000000000000000000000000000000"
	entry := func(artifactType string, features []string, annotations map[string]string) ocispec.Descriptor {
		d := index
		d.ArtifactType, d.Annotations = artifactType, annotations
		d.Platform = &ocispec.Platform{OS: "linux", Architecture: "amd64", OSFeatures: features}
		return d
	}
	manifests := []any{sociV2(imageLayers(t)...)}
	holding := func(d ocispec.Descriptor, layers ...ocispec.Descriptor) ocispec.Descriptor {
		m := map[string]any{"schemaVersion": 2, "mediaType": ocispec.MediaTypeImageManifest, "layers": layers, "config": blob(ocispec.MediaTypeImageConfig, "{}", nil)}
		manifests = append(manifests, m)
		made, err := regtest.New(t, regtest.Options{}).PutJSON("app", "", ocispec.MediaTypeImageManifest, m)
		if err != nil {
			t.Fatal(err)
		}
		d.Digest, d.Size = made.Digest, made.Size
		return d
	}
	boot := func(version string) ocispec.Descriptor {
		return blob(ocispec.MediaTypeImageLayerGzip, "boot", map[string]string{keyBootstrap: "true", keyNydusFS: version})
	}
	data := blob(nydusBlob, "data", nil)
	zran := func(of string) ocispec.Descriptor { return blob(nydusBlob, "zran", map[string]string{keyNydusRef: of}) }
	nydusEntry := entry("", []string{"nydus.remoteimage.v1"}, nil)
	erofsEntry := entry("", []string{"erofs"}, nil)
	erofsData := blob(erofsLayer, "erofs", nil)
	soci := func(of string) ocispec.Descriptor {
		d := entry(typeSOCIv2, nil, map[string]string{keySOCIOfImage: of})
		d.Digest, d.Size = sociIndex.Digest, sociIndex.Size
		return d
	}
	arm := func(d ocispec.Descriptor) ocispec.Descriptor {
		d.Platform = &ocispec.Platform{OS: "linux", Architecture: "arm64", OSFeatures: d.Platform.OSFeatures}
		return d
	}
	for name, tc := range map[string]struct {
		named  string // the image's annotation, if any
		entry  ocispec.Descriptor
		format string
		code   reason.Code
		detail string
	}{
		"SOCI v2, both ways":                   {sociIndex.Digest.String(), soci(self), "soci", "", ""},
		"SOCI v2, image names nothing":         {"", soci(self), "", reason.ArtifactInvalid, "which names"},
		"SOCI v2, image names another":         {stranger, soci(self), "", reason.ArtifactInvalid, "which names"},
		"SOCI v2, entry names another":         {sociIndex.Digest.String(), soci(stranger), "", reason.ArtifactInvalid, "the index says is of"},
		"SOCI v2, entry names nothing":         {index.Digest.String(), entry(typeSOCIv2, nil, nil), "", reason.ArtifactInvalid, "the index says is of"},
		"SOCI v2, not listed":                  {stranger, arm(soci(stranger)), "", reason.ArtifactInvalid, "does not list"},
		"SOCI v2, of another platform's image": {"", arm(soci(stranger)), "", reason.NoReferrers, ""},

		"nydus, os.features":          {"", holding(nydusEntry, data, boot("6")), "nydus", "", ""},
		"nydus, artifact type":        {"", holding(entry(typeNydus, nil, nil), data, boot("6")), "nydus", "", ""},
		"nydus, both":                 {"", holding(entry(typeNydus, []string{"nydus.remoteimage.v1"}, nil), data, boot("6")), "nydus", "", ""},
		"nydus, other platform":       {"", arm(holding(nydusEntry, data, boot("6"))), "", reason.NoReferrers, ""},
		"nydus, older metadata":       {"", holding(nydusEntry, data, boot("5")), "", reason.NoMatch, "version 5"},
		"nydus, no bootstrap":         {"", holding(nydusEntry, data), "", reason.ArtifactInvalid, "bootstrap"},
		"nydus, an ordinary image":    {"", nydusEntry, "", reason.ArtifactInvalid, "bootstrap"},
		"nydus, data in its layers":   {"", holding(nydusEntry, zran(imageLayers(t)[0].Digest.String()), data, boot("6")), "nydus", "", ""},
		"nydus, data in other layers": {"", holding(nydusEntry, zran(stranger), boot("6")), "", reason.LayerMismatch, "does not have"},

		"EROFS":                    {"", holding(erofsEntry, erofsData, erofsData), "erofs", "", ""},
		"EROFS, one for all":       {"", holding(erofsEntry, erofsData), "erofs", "", ""},
		"EROFS, other platform":    {"", arm(holding(erofsEntry, erofsData, erofsData)), "", reason.NoReferrers, ""},
		"EROFS, too many layers":   {"", holding(erofsEntry, erofsData, erofsData, erofsData), "", reason.LayerMismatch, "3 layers"},
		"EROFS, no layers":         {"", holding(erofsEntry), "", reason.LayerMismatch, "0 layers"},
		"EROFS, an ordinary image": {"", erofsEntry, "", reason.ArtifactInvalid, "layer 0"},
		"other os.features":        {"", entry("", []string{"example"}, nil), "", reason.NoReferrers, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reg := regtest.New(t, regtest.Options{})
			putImage(t, reg, "app", "", alternative)
			for _, m := range manifests {
				if _, err := reg.PutJSON("app", "", ocispec.MediaTypeImageManifest, m); err != nil {
					t.Fatal(err)
				}
			}
			img := putImage(t, reg, "app", "", regtest.ImageSpec{})
			if tc.named != "" {
				putMarked(t, reg, img, sociMark(tc.named))
			}
			if tc.entry.Annotations[keySOCIOfImage] == self {
				tc.entry.Annotations = map[string]string{keySOCIOfImage: img.Descriptor.Digest.String()}
			}
			top, err := reg.PutIndex("app", "1", img, &regtest.Image{Descriptor: tc.entry})
			if err != nil {
				t.Fatal(err)
			}
			p := plan(t, newNegotiator(t, negotiate.Options{}), reg.Ref("app", "1"))
			if p.Reason != tc.code || p.Lazy() != (tc.format != "") || !strings.Contains(p.Detail, tc.detail) {
				t.Fatalf("%s: %s, want %s", p.Reason, p.Detail, tc.code)
			}
			if p.Image.Manifest.Digest != img.Descriptor.Digest || p.Image.Index.Digest != top.Digest {
				t.Errorf("the image is %s", p.Image.Manifest.Digest)
			}
			if tc.format == "" {
				return
			}
			c := p.Chosen
			if c.Format != tc.format || c.Found != negotiate.FoundInPlace || !c.Bound || c.Foreign != (tc.format != "soci") || c.Artifact.Digest != tc.entry.Digest {
				t.Errorf("chosen %+v", c)
			}
			if len(c.Layers) == 0 || c.Fit == "" {
				t.Errorf("nobody read the entry: %+v", c)
			}
			checkNotAttachable(t, reg, tc.format, tc.entry)
		})
	}
}

package negotiate_test

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/internal/regtest"
	"github.com/referee-cri/referee/negotiate"
)

const (
	typeSOCI       = "application/vnd.amazon.soci.index.v1+json"
	typeSOCIv2     = "application/vnd.amazon.soci.index.v2+json"
	typeNydus      = "application/vnd.nydus.image.manifest.v1+json"
	typeNydusORAS  = "application/vnd.cncf.nydus.v1"
	nydusBlob      = "application/vnd.oci.image.layer.nydus.blob.v1"
	erofsLayer     = "application/vnd.erofs.layer.v1"
	typeDisk       = "application/vnd.referee.disk.v1"
	diskLayer      = "application/vnd.referee.disk.layer.v1."
	keyTurbo       = prefix + "turbo-oci/target-digest"
	keyFast        = prefix + "fastoci/target-digest"
	sociPrefetch   = "application/vnd.amazon.soci.prefetch.v1+json"
	keySOCILayer   = "com.amazon.soci.image-layer-digest"
	keyBootstrap   = "containerd.io/snapshot/nydus-bootstrap"
	keyNydusRef    = "containerd.io/snapshot/nydus-ref"
	keyNydusFS     = "containerd.io/snapshot/nydus-fs-version"
	keyNydusSecret = "containerd.io/snapshot/nydus-encrypted-blob"
)

// blob is a descriptor of something that nobody fetches.
func blob(mediaType, name string, annotations map[string]string) ocispec.Descriptor {
	return ocispec.Descriptor{
		MediaType: mediaType, Digest: digest.FromString(name), Size: int64(len(name)), Annotations: annotations,
	}
}

// withLayers replaces the layers of a form's manifest.
func withLayers(layers ...ocispec.Descriptor) func(map[string]any) {
	return func(m map[string]any) { m["layers"] = layers }
}

// turbo are layers of metadata for each of the image's.
func turbo(img *regtest.Image, key string) []ocispec.Descriptor {
	var layers []ocispec.Descriptor
	for i, of := range img.Manifest.Layers {
		layers = append(layers, blob(ocispec.MediaTypeImageLayerGzip, fmt.Sprint("turbo", i), map[string]string{key: of.Digest.String()}))
	}
	return layers
}

// ztoc is a table of contents of a layer.
func ztoc(of digest.Digest) ocispec.Descriptor {
	return blob("application/octet-stream", "ztoc", map[string]string{keySOCILayer: of.String()})
}

// sociV1 writes what `soci create` does: no artifact type but the config's media type.
func sociV1(tables ...ocispec.Descriptor) form {
	return form{change: func(m map[string]any) {
		delete(m, "artifactType")
		m["config"] = ocispec.Descriptor{MediaType: typeSOCI, Digest: ocispec.DescriptorEmptyJSON.Digest, Size: 2}
		m["layers"] = tables
	}}
}

// sociV2 is an index of the second version, of an image with these layers.
func sociV2(layers ...ocispec.Descriptor) map[string]any {
	var tables []ocispec.Descriptor
	for _, layer := range layers {
		tables = append(tables, ztoc(layer.Digest))
	}
	return map[string]any{
		"schemaVersion": 2, "mediaType": ocispec.MediaTypeImageManifest, "layers": tables,
		"config": ocispec.Descriptor{MediaType: typeSOCIv2, Digest: ocispec.DescriptorEmptyJSON.Digest, Size: 2},
	}
}

// zran is a blob that lists what is in a layer of the image.
func zran(name string, of digest.Digest) ocispec.Descriptor {
	return blob(nydusBlob, "zran "+name, map[string]string{keyNydusRef: of.String()})
}

func bootstrap(annotations ...string) ocispec.Descriptor {
	d := blob(ocispec.MediaTypeImageLayerGzip, "bootstrap", map[string]string{keyBootstrap: "true"})
	for i := 0; i < len(annotations); i += 2 {
		d.Annotations[annotations[i]] = annotations[i+1]
	}
	return d
}

// TestAttachedForms goes through the rows of the specification's section 4 that
// are attached to an image of two layers.
func TestAttachedForms(t *testing.T) {
	t.Parallel()
	data := blob(nydusBlob, "data", map[string]string{"containerd.io/snapshot/nydus-blob": "true"})
	erofs := []ocispec.Descriptor{blob(erofsLayer, "e0", nil), blob(erofsLayer+"+zstd", "e1", nil)}
	strange := digest.FromString("no layer of this image")
	for name, tc := range map[string]struct {
		form   func(img *regtest.Image) form
		format string // "": none, for reason code
		code   reason.Code
		layers int
		fit    negotiate.Fit
	}{
		// overlaybd native, Azure, dadi.image.v1: TestArtifactsAreVerified.
		"overlaybd TurboOCI": {func(img *regtest.Image) form {
			return form{artifactType: typeTurbo, layers: 2, change: withLayers(turbo(img, keyTurbo)...)}
		}, "turbooci", "", 2, negotiate.FitLayers},
		"overlaybd TurboOCI, legacy annotation": {func(img *regtest.Image) form {
			return form{artifactType: typeTurbo, layers: 2, change: withLayers(turbo(img, keyFast)...)}
		}, "turbooci", "", 2, negotiate.FitLayers},
		"overlaybd TurboOCI, no artifact type": {func(img *regtest.Image) form {
			return form{layers: 2, change: withLayers(turbo(img, keyTurbo)...)}
		}, "turbooci", "", 2, negotiate.FitLayers},
		"overlaybd TurboOCI above a base layer": {func(img *regtest.Image) form {
			return form{artifactType: typeTurbo, layers: 3, change: withLayers(append([]ocispec.Descriptor{layer("base", false)}, turbo(img, keyTurbo)...)...)}
		}, "turbooci", "", 2, negotiate.FitBased},
		"overlaybd TurboOCI of another image's layer": {func(img *regtest.Image) form {
			layers := turbo(img, keyTurbo)
			layers[1].Annotations[keyTurbo] = strange.String()
			return form{artifactType: typeTurbo, layers: 2, change: withLayers(layers...)}
		}, "", reason.LayerMismatch, 0, ""},
		"overlaybd TurboOCI, bad digest": {func(img *regtest.Image) form {
			layers := turbo(img, keyTurbo)
			layers[1].Annotations[keyTurbo] = "sha256:../x"
			return form{artifactType: typeTurbo, layers: 2, change: withLayers(layers...)}
		}, "", reason.ArtifactInvalid, 0, ""},

		"SOCI index v1": {func(img *regtest.Image) form {
			return sociV1(ztoc(img.Manifest.Layers[0].Digest), ztoc(img.Manifest.Layers[1].Digest))
		}, "soci", "", 2, negotiate.FitLayers},
		"SOCI index v1, a small layer has no table": {func(img *regtest.Image) form { return sociV1(ztoc(img.Manifest.Layers[1].Digest)) }, "soci", "", 2, negotiate.FitLayers},
		"SOCI index v1 without tables":              {func(*regtest.Image) form { return sociV1() }, "", reason.ArtifactInvalid, 0, ""},
		"SOCI index v1 with nothing but advice": {func(img *regtest.Image) form {
			return sociV1(blob(sociPrefetch, "advice", map[string]string{keySOCILayer: img.Manifest.Layers[0].Digest.String()}))
		}, "", reason.ArtifactInvalid, 0, ""},
		"SOCI index v1 of another image":  {func(*regtest.Image) form { return sociV1(ztoc(strange)) }, "", reason.LayerMismatch, 0, ""},
		"SOCI index v1, table of nothing": {func(*regtest.Image) form { return sociV1(ztoc("")) }, "", reason.ArtifactInvalid, 0, ""},
		"SOCI index v2 is none that is attached": {func(img *regtest.Image) form {
			f := sociV1(ztoc(img.Manifest.Layers[0].Digest))
			f.artifactType, f.change = typeSOCIv2, withLayers(ztoc(img.Manifest.Layers[0].Digest))
			return f
		}, "", reason.NoMatch, 0, ""},

		"nydus, referrer": {func(*regtest.Image) form {
			return form{change: withLayers(data, bootstrap(keyNydusFS, "6"))}
		}, "nydus", "", 2, negotiate.FitFlat},
		"nydus, referrer, its value does not count": {func(*regtest.Image) form {
			return form{change: withLayers(data, blob(nydusBlob, "more", nil), bootstrap(keyBootstrap, ""))}
		}, "nydus", "", 3, negotiate.FitFlat},
		"nydus, referrer with artifact type": {func(*regtest.Image) form {
			return form{artifactType: typeNydus, change: withLayers(data, bootstrap())}
		}, "nydus", "", 2, negotiate.FitFlat},
		"nydus, bootstrap is not the last": {func(*regtest.Image) form {
			return form{artifactType: typeNydus, change: withLayers(bootstrap(), data)}
		}, "", reason.ArtifactInvalid, 0, ""},
		"nydus, bootstrap is not the last, no type": {func(*regtest.Image) form {
			return form{change: withLayers(bootstrap(), data)}
		}, "", reason.NoMatch, 0, ""},
		"nydus, data in the image's layers": {func(img *regtest.Image) form {
			return form{change: withLayers(zran("0", img.Manifest.Layers[1].Digest), data, zran("1", img.Manifest.Layers[1].Digest), bootstrap())}
		}, "nydus", "", 4, negotiate.FitFlat},
		"nydus, data in another image's layer": {func(*regtest.Image) form {
			return form{change: withLayers(zran("0", strange), bootstrap())}
		}, "", reason.LayerMismatch, 0, ""},
		"nydus, RAFS version 5":        {func(*regtest.Image) form { return form{change: withLayers(data, bootstrap(keyNydusFS, "5"))} }, "", reason.NoMatch, 0, ""},
		"nydus, data elsewhere":        {func(*regtest.Image) form { return form{change: withLayers(bootstrap())} }, "", reason.NoMatch, 0, ""},
		"nydus, ordinary layer within": {func(*regtest.Image) form { return form{change: withLayers(layer("x", false), bootstrap())} }, "", reason.ArtifactInvalid, 0, ""},
		"nydus, encrypted": {func(*regtest.Image) form {
			return form{change: withLayers(blob(nydusBlob, "secret", map[string]string{keyNydusSecret: "true"}), bootstrap())}
		}, "", reason.NoMatch, 0, ""},

		"EROFS, no artifact type": {func(*regtest.Image) form { return form{layers: 2, change: withLayers(erofs...)} }, "erofs", "", 2, negotiate.FitLayers},
		"EROFS, named": {func(*regtest.Image) form {
			return form{artifactType: erofsLayer, layers: 2, change: withLayers(erofs...)}
		}, "erofs", "", 2, negotiate.FitLayers},
		"EROFS, one for all layers": {func(*regtest.Image) form {
			return form{layers: 1, change: withLayers(erofs[0])}
		}, "erofs", "", 1, negotiate.FitFlat},
		"EROFS, ordinary layer within": {func(*regtest.Image) form {
			return form{layers: 2, change: withLayers(erofs[0], layer("x", false))}
		}, "", reason.NoMatch, 0, ""},
		"EROFS, named, ordinary layer within": {func(*regtest.Image) form {
			return form{artifactType: erofsLayer, layers: 2, change: withLayers(erofs[0], layer("x", false))}
		}, "", reason.ArtifactInvalid, 0, ""},

		"disk, raw": {func(*regtest.Image) form {
			return form{artifactType: typeDisk, layers: 1, change: withLayers(blob(diskLayer+"raw", "x", nil))}
		}, "disk", "", 1, negotiate.FitFlat},
		"disk, VHD in zstd": {func(*regtest.Image) form {
			return form{artifactType: typeDisk, layers: 1, change: withLayers(blob(diskLayer+"vhd+zstd", "x", nil))}
		}, "disk", "", 1, negotiate.FitFlat},
		"disk of two layers": {func(*regtest.Image) form {
			return form{artifactType: typeDisk, layers: 2, change: withLayers(blob(diskLayer+"raw", "x", nil), blob(diskLayer+"raw", "y", nil))}
		}, "", reason.ArtifactInvalid, 0, ""},
		"disk of another kind": {func(*regtest.Image) form {
			return form{artifactType: typeDisk, layers: 1, change: withLayers(blob(diskLayer+"qcow2", "x", nil))}
		}, "", reason.ArtifactInvalid, 0, ""},
		"disk that does not say so": {func(*regtest.Image) form {
			return form{layers: 1, change: withLayers(blob(diskLayer+"raw", "x", nil))}
		}, "", reason.NoMatch, 0, ""},

		// Rows that are no form of an image.
		"notation":             {other("application/vnd.cncf.notary.signature"), "", reason.NoMatch, 0, ""},
		"notation, alpha":      {other("application/vnd.cncf.notary.v2.signature"), "", reason.NoMatch, 0, ""},
		"cosign, OCI 1.1":      {other("application/vnd.dev.cosign.artifact.sig.v1+json"), "", reason.NoMatch, 0, ""},
		"cosign v3":            {other("application/vnd.dev.sigstore.bundle.v0.3+json"), "", reason.NoMatch, 0, ""},
		"an ordinary artifact": {other("application/vnd.example.sbom.v1"), "", reason.NoMatch, 0, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reg := regtest.New(t, regtest.Options{})
			img := putImage(t, reg, "app", "1", regtest.ImageSpec{})
			d := tc.form(img).attach(t, reg, "app", img.Descriptor)
			p := plan(t, newNegotiator(t, negotiate.Options{}), reg.Ref("app", "1"))
			if p.Reason != tc.code || p.Lazy() != (tc.format != "") {
				t.Fatalf("%s: %s, want %s", p.Reason, p.Detail, tc.code)
			}
			if tc.format == "" {
				return
			}
			c := p.Chosen
			foreign := tc.format != "soci"
			inImage := strings.Contains(name, "in the image's layers")
			if tables := tc.format == "turbooci" || tc.format == "soci" || inImage; tables != (len(c.Tables) > 0) {
				t.Errorf("tables %v", c.Tables)
			}
			if inImage && !reflect.DeepEqual(c.Tables, img.Manifest.Layers[1:2]) {
				t.Errorf("tables %v, want the image's second layer once", c.Tables)
			}
			if c.Format != tc.format || c.Fit != tc.fit || len(c.Layers) != tc.layers || c.Foreign != foreign || c.Bound || c.Artifact.Digest != d.Digest {
				t.Errorf("chosen %+v", c)
			}
			checkNotAttachable(t, reg, tc.format, d)
		})
	}
}

func other(artifactType string) func(*regtest.Image) form {
	return func(*regtest.Image) form { return form{artifactType: artifactType, layers: 2} }
}

// checkNotAttachable plans for a node that can open overlaybd alone. What says
// in the list what it is must not even be fetched.
func checkNotAttachable(t *testing.T, reg *regtest.Registry, format string, artifact ocispec.Descriptor) {
	t.Helper()
	reg.ResetRequests()
	p := plan(t, newNegotiator(t, negotiate.Options{Attachable: onlyOverlaybd}), reg.Ref("app", "1"))
	if p.Lazy() || p.Reason != reason.NotAttachable || len(p.Rejected) != 1 {
		t.Fatalf("%s: %s, rejected %+v", p.Reason, p.Detail, p.Rejected)
	}
	r := p.Rejected[0]
	if r.Artifact.Digest != artifact.Digest || r.Reason != reason.NotAttachable || !strings.Contains(r.Detail, format) {
		t.Errorf("rejected %+v", r)
	}
	named := r.ArtifactType != "" && r.ArtifactType != ocispec.MediaTypeImageConfig
	if named && slices.Contains(requests(reg), "/v2/app/manifests/"+artifact.Digest.String()) {
		t.Errorf("fetched although its format is of no use: %q", requests(reg))
	}
}

// TestNydusORASArtifact has the bootstrap first, as the ORAS specification's own example does.
func TestNydusORASArtifact(t *testing.T) {
	t.Parallel()
	const boot, data = "application/vnd.cncf.nydus.bootstrap.v1.tar+gzip", "application/vnd.cncf.nydus.blob.v1"
	for name, tc := range map[string]struct {
		blobs []ocispec.Descriptor
		code  reason.Code
	}{
		"bootstrap, then blobs": {[]ocispec.Descriptor{blob(boot, "b", nil), blob(data, "0", nil), blob(data, "1", nil)}, ""},
		"no bootstrap":          {[]ocispec.Descriptor{blob(data, "0", nil)}, reason.ArtifactInvalid},
		"no blobs":              {[]ocispec.Descriptor{blob(boot, "b", nil)}, reason.NoMatch},
		"nothing":               {nil, reason.ArtifactInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reg := regtest.New(t, regtest.Options{Features: &regtest.Features{ORASv2: true, ORASPush: true}})
			img := putImage(t, reg, "app", "1", regtest.ImageSpec{})
			if _, err := reg.PutJSON("app", "", regtest.MediaTypeORASArtifact, map[string]any{
				"mediaType": regtest.MediaTypeORASArtifact, "artifactType": typeNydusORAS, "subject": img.Descriptor, "blobs": tc.blobs,
			}); err != nil {
				t.Fatal(err)
			}
			p := plan(t, newNegotiator(t, negotiate.Options{Policy: legacy(negotiate.LegacyOn)}), reg.Ref("app", "1"))
			if p.Reason != tc.code {
				t.Fatalf("%s: %s", p.Reason, p.Detail)
			}
			if p.Lazy() && (p.Chosen.Format != "nydus" || p.Chosen.Fit != negotiate.FitFlat || p.Chosen.Layers[2].MediaType != boot) {
				t.Errorf("chosen %+v", p.Chosen)
			}
		})
	}
}

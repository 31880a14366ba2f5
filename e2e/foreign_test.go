package e2e_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/e2e/node"
	"github.com/referee-cri/referee/internal/fsimage"
	"github.com/referee-cri/referee/internal/rafstest"
	"github.com/referee-cri/referee/internal/testdata"
	"github.com/referee-cri/referee/internal/treecmp"
)

// TestFormsThatAreFileSystems attaches file-system images that others made, runs
// the image from them, across a restart of the daemon too, and removes it.
func TestFormsThatAreFileSystems(t *testing.T) {
	t.Parallel()
	layout := filepath.Join(testdata.Dir(t, "reference"), "tiny")
	longNames := []treecmp.Ignore{
		{Path: "/nasty/names/**", Field: treecmp.FieldPresence, Why: "mkfs.erofs 1.5 cannot hold a name of 255 bytes"},
	}
	for name, tc := range map[string]struct {
		format  string
		put     func(t *testing.T, b *bed) // leaves the form and tiny:tiny in the registry
		differs []treecmp.Ignore
	}{
		"EROFS layers in the index":             {"erofs", putEROFS(layout, "-Enoinline_data"), longNames},
		"EROFS layers in the index, compressed": {"erofs", putEROFS(layout, "-zlz4hc", "-C65536", "-Eztailpacking"), longNames},
		"Nydus in the index":                    {"nydus", putNydus(layout), nil},
		"Nydus over the image's own layers":     {"nydus", putZran(layout), nil},
		"attached VHD in zstd": {"disk", putDisk(layout), []treecmp.Ignore{
			{Path: "/lost+found", Why: "mkfs.ext4 makes it"},
			{Field: treecmp.FieldNsec, Why: "mkfs.ext4 keeps whole seconds"},
			{Path: "/nasty/time/year-2040", Field: treecmp.FieldMtime, Why: "mkfs.ext4 1.47 wraps times behind 2038"},
			{Path: "/nasty/time/year-2040-nsec", Field: treecmp.FieldMtime, Why: "as above"},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBed(t, node.Options{}, "")
			tc.put(t, b)
			ref := b.registry.Ref("tiny", "tiny")
			b.registry.ResetRequests()
			b.pullAs(t, ref, tc.format)
			b.expectNoLayerFetched(t, layout, "tiny")
			b.runAndRemove(t, ref, tc.differs)
		})
	}
}

// putEROFS converts every layer with mkfs.erofs, as containerd does.
func putEROFS(layout string, arguments ...string) func(*testing.T, *bed) {
	return func(t *testing.T, b *bed) {
		var layers []ocispec.Descriptor
		for _, upper := range fsimage.Unpack(t, layout, "tiny") {
			fsimage.DropLongNames(t, upper)
			layers = append(layers, b.put(t, "application/vnd.erofs.layer.v1", fsimage.EROFS(t, upper, arguments...)))
		}
		b.putBesideOriginal(t, layout, "erofs", layers)
	}
}

func putNydus(layout string) func(*testing.T, *bed) {
	return func(t *testing.T, b *bed) {
		img := rafstest.Write(t, fsimage.Tars(t, layout, "tiny"), rafstest.Options{Compression: rafstest.Zstd, Batch: 16 << 10, Prefetch: []string{"/bin/busybox"}})
		layers, contents := img.Layers(t)
		for i, layer := range layers {
			b.put(t, layer.MediaType, contents[i])
		}
		b.putBesideOriginal(t, layout, "nydus.remoteimage.v1", layers)
	}
}

// putZran puts an image whose data stays in the layers of the ordinary one.
func putZran(layout string) func(*testing.T, *bed) {
	return func(t *testing.T, b *bed) {
		var originals [][]byte
		for _, layer := range readLayout(t, layout, "tiny").manifest.Layers {
			content, err := os.ReadFile(filepath.Join(layout, "blobs", "sha256", layer.Digest.Encoded()))
			if err != nil {
				t.Fatal(err)
			}
			originals = append(originals, content)
		}
		layers, contents := rafstest.Write(t, originals, rafstest.Options{Originals: true, NoChunks: true}).Layers(t)
		for i := range layers {
			layers[i].Digest = b.put(t, layers[i].MediaType, contents[i]).Digest
		}
		b.putBesideOriginal(t, layout, "nydus.remoteimage.v1", layers)
	}
}

// putDisk attaches a disk of the merged layers.
func putDisk(layout string) func(*testing.T, *bed) {
	return func(t *testing.T, b *bed) {
		disk := fsimage.DynamicVHD(t, fsimage.Ext4(t, fsimage.Merge(t, fsimage.Unpack(t, layout, "tiny")), "40M"))
		layer := b.put(t, "application/vnd.referee.disk.layer.v1.vhd+zstd", fsimage.SeekableZstd(t, disk, 256<<10))
		b.pushOriginal(t, layout)
		subject := readLayout(t, layout, "tiny").descriptor
		_, err := b.registry.PutJSON("tiny", "", ocispec.MediaTypeImageManifest, ocispec.Manifest{
			Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
			ArtifactType: "application/vnd.referee.disk.v1", Subject: &subject,
			Config: b.put(t, ocispec.MediaTypeEmptyJSON, []byte("{}")), Layers: []ocispec.Descriptor{layer},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func (b *bed) put(t *testing.T, mediaType string, content []byte) ocispec.Descriptor {
	t.Helper()
	d, err := b.registry.PutBlob(mediaType, content)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// putBesideOriginal makes tiny:tiny an index of the image in layout and another of
// these layers, marked with a feature.
func (b *bed) putBesideOriginal(t *testing.T, layout, feature string, layers []ocispec.Descriptor) {
	t.Helper()
	b.pushOriginal(t, layout)
	image := readLayout(t, layout, "tiny")
	other, err := b.registry.PutJSON("tiny", "", ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: image.manifest.Config, Layers: layers,
	})
	if err != nil {
		t.Fatal(err)
	}
	platform := ocispec.Platform{OS: "linux", Architecture: "amd64"}
	image.descriptor.Platform = &platform
	image.descriptor.Annotations = nil
	marked := platform
	marked.OSFeatures = []string{feature}
	other.Platform = &marked
	if _, err := b.registry.PutJSON("tiny", "tiny", ocispec.MediaTypeImageIndex, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex,
		Manifests: []ocispec.Descriptor{image.descriptor, other},
	}); err != nil {
		t.Fatal(err)
	}
}

package images

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// writeLayout makes an OCI layout with one tagged image from layers' folders.
// Blobs are hard links into them.
func writeLayout(dir string, layers []string, config ocispec.ImageConfig) error {
	blobs := filepath.Join(dir, ocispec.ImageBlobsDir, digest.Canonical.String())
	if err := os.MkdirAll(blobs, 0o755); err != nil {
		return err
	}
	platform := ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH}
	img := ocispec.Image{Platform: platform, Config: config, RootFS: ocispec.RootFS{Type: "layers"}}
	manifest := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	for _, layer := range layers {
		info, err := readInfo(layer)
		if err != nil {
			return fmt.Errorf("read layer: %w", err)
		}
		if err := os.Link(filepath.Join(layer, blobFile), filepath.Join(blobs, info.Digest.Encoded())); err != nil {
			return fmt.Errorf("link layer: %w", err)
		}
		img.RootFS.DiffIDs = append(img.RootFS.DiffIDs, info.DiffID)
		img.History = append(img.History, ocispec.History{CreatedBy: filepath.Base(layer)})
		manifest.Layers = append(manifest.Layers, ocispec.Descriptor{
			MediaType: ocispec.MediaTypeImageLayerGzip, Digest: info.Digest, Size: info.Size,
		})
	}
	var err error
	if manifest.Config, err = writeJSON(blobs, ocispec.MediaTypeImageConfig, img); err != nil {
		return err
	}
	desc, err := writeJSON(blobs, ocispec.MediaTypeImageManifest, manifest)
	if err != nil {
		return err
	}
	desc.Platform = &platform
	desc.Annotations = map[string]string{ocispec.AnnotationRefName: Tag}
	return writeIndex(dir, desc)
}

func writeIndex(dir string, desc ocispec.Descriptor) error {
	index, err := json.Marshal(ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex,
		Manifests: []ocispec.Descriptor{desc},
	})
	if err != nil {
		return err
	}
	marker, err := json.Marshal(ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion})
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, ocispec.ImageLayoutFile), marker, 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, ocispec.ImageIndexFile), index, 0o644)
}

func writeJSON(blobs, mediaType string, value any) (ocispec.Descriptor, error) {
	b, err := json.Marshal(value)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
	return desc, os.WriteFile(filepath.Join(blobs, desc.Digest.Encoded()), b, 0o644)
}

package regtest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"runtime"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// ImageSpec describes a small image to be made. Equal specs give equal bytes.
type ImageSpec struct {
	Layers    int   // 0: 2
	LayerSize int   // bytes of incompressible file content a layer; 0: 4096
	Seed      int64 // different seeds give different images
	Platform  *ocispec.Platform
}

// Image is an image that was stored.
type Image struct {
	Descriptor ocispec.Descriptor // of the manifest, with its platform
	Manifest   ocispec.Manifest
	Config     ocispec.Image
	ConfigRaw  []byte
	ChainIDs   []digest.Digest
}

// PutImage makes an ordinary tar+gzip image and stores it. tag may be empty.
func (r *Registry) PutImage(repo, tag string, spec ImageSpec) (*Image, error) {
	img, layers, err := buildImage(spec)
	if err != nil {
		return nil, fmt.Errorf("build image: %w", err)
	}
	for _, layer := range layers {
		if _, err := r.PutBlob(ocispec.MediaTypeImageLayerGzip, layer); err != nil {
			return nil, err
		}
	}
	if _, err := r.PutBlob(ocispec.MediaTypeImageConfig, img.ConfigRaw); err != nil {
		return nil, err
	}
	d, err := r.PutJSON(repo, tag, ocispec.MediaTypeImageManifest, img.Manifest)
	if err != nil {
		return nil, err
	}
	platform := img.Config.Platform
	d.Platform = &platform
	img.Descriptor = d
	return img, nil
}

// PutIndex stores an index of images. tag may be empty.
func (r *Registry) PutIndex(repo, tag string, images ...*Image) (ocispec.Descriptor, error) {
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	for _, img := range images {
		index.Manifests = append(index.Manifests, img.Descriptor)
	}
	return r.PutJSON(repo, tag, ocispec.MediaTypeImageIndex, index)
}

func buildImage(spec ImageSpec) (*Image, [][]byte, error) {
	if spec.Layers == 0 {
		spec.Layers = 2
	}
	if spec.LayerSize == 0 {
		spec.LayerSize = 4096
	}
	if spec.Platform == nil {
		spec.Platform = &ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH}
	}
	img := &Image{Config: ocispec.Image{
		Platform: *spec.Platform, Config: ocispec.ImageConfig{Cmd: []string{"/layer0"}}, RootFS: ocispec.RootFS{Type: "layers"},
	}}
	source := rand.NewChaCha8([32]byte{byte(spec.Seed), byte(spec.Seed >> 8), byte(spec.Seed >> 16), byte(spec.Seed >> 24)})
	var descriptors []ocispec.Descriptor
	var blobs [][]byte
	for i := range spec.Layers {
		content := make([]byte, spec.LayerSize)
		_, _ = source.Read(content) // never fails
		blob, diffID, err := buildLayer(fmt.Sprintf("layer%d", i), content)
		if err != nil {
			return nil, nil, err
		}
		blobs = append(blobs, blob)
		descriptors = append(descriptors, ocispec.Descriptor{
			MediaType: ocispec.MediaTypeImageLayerGzip, Digest: digest.FromBytes(blob), Size: int64(len(blob)),
		})
		img.Config.RootFS.DiffIDs = append(img.Config.RootFS.DiffIDs, diffID)
		img.ChainIDs = append(img.ChainIDs, chainID(img.ChainIDs, diffID))
	}
	raw, err := json.Marshal(img.Config)
	if err != nil {
		return nil, nil, err
	}
	img.ConfigRaw = raw
	img.Manifest = ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Layers: descriptors,
		Config: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: digest.FromBytes(raw), Size: int64(len(raw))},
	}
	return img, blobs, nil
}

// chainID is written out here, apart from image-spec's identity package that the product uses.
func chainID(below []digest.Digest, diffID digest.Digest) digest.Digest {
	if len(below) == 0 {
		return diffID
	}
	return digest.FromString(below[len(below)-1].String() + " " + diffID.String())
}

// buildLayer makes a gzip-compressed tar of one file.
func buildLayer(name string, content []byte) (blob []byte, diffID digest.Digest, err error) {
	var plain bytes.Buffer
	tw := tar.NewWriter(&plain)
	header := &tar.Header{Name: name, Mode: 0o755, Size: int64(len(content)), ModTime: time.Unix(1700000000, 0)}
	if err := tw.WriteHeader(header); err != nil {
		return nil, "", err
	}
	if _, err := tw.Write(content); err != nil {
		return nil, "", err
	}
	if err := tw.Close(); err != nil {
		return nil, "", err
	}
	var packed bytes.Buffer
	zw := gzip.NewWriter(&packed)
	if _, err := zw.Write(plain.Bytes()); err != nil {
		return nil, "", err
	}
	if err := zw.Close(); err != nil {
		return nil, "", err
	}
	return packed.Bytes(), digest.FromBytes(plain.Bytes()), nil
}

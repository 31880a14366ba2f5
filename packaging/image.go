package main

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// image writes an OCI layout of one image for all architectures, in which there is
// the binary and nothing else: what the chart's init container runs. It returns the
// path of the layout's index, which names everything by digest.
func (r *release) image(arches []string) (index string, err error) {
	dir := filepath.Join(r.out, "image")
	if err := os.RemoveAll(dir); err != nil {
		return "", err
	}
	all := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, arch := range arches {
		image, err := r.imageFor(arch)
		if err != nil {
			return "", fmt.Errorf("make image for %s: %w", arch, err)
		}
		all = mutate.AppendManifests(all, mutate.IndexAddendum{
			Add: image, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}},
		})
	}
	written, err := layout.Write(dir, empty.Index)
	if err != nil {
		return "", err
	}
	tag := map[string]string{"org.opencontainers.image.ref.name": r.version}
	return filepath.Join(dir, "index.json"), written.AppendIndex(all, layout.WithAnnotations(tag))
}

func (r *release) imageFor(arch string) (v1.Image, error) {
	content, err := r.layer(arch)
	if err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil },
		tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return nil, err
	}
	image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	image, err = mutate.ConfigFile(image, &v1.ConfigFile{
		OS: "linux", Architecture: arch, Created: v1.Time{Time: r.date}, RootFS: v1.RootFS{Type: "layers"},
		Config: v1.Config{Entrypoint: []string{"/referee"}, Labels: map[string]string{"org.opencontainers.image.version": r.version}},
	})
	if err != nil {
		return nil, err
	}
	return mutate.Append(image, mutate.Addendum{Layer: layer, History: v1.History{Created: v1.Time{Time: r.date}, CreatedBy: "packaging"}})
}

// layer is a tar of the binary.
func (r *release) layer(arch string) ([]byte, error) {
	binary, err := os.ReadFile(filepath.Join(r.out, "referee-linux-"+arch))
	if err != nil {
		return nil, err
	}
	var content bytes.Buffer
	w := tar.NewWriter(&content)
	header := tar.Header{Name: "referee", Typeflag: tar.TypeReg, Mode: 0o755, Size: int64(len(binary)), ModTime: r.date, Format: tar.FormatUSTAR}
	if err := w.WriteHeader(&header); err != nil {
		return nil, err
	}
	if _, err := w.Write(binary); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return content.Bytes(), nil
}

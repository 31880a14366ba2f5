package images

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
)

// layerInfo is what a layer's folder tells of its blob.
type layerInfo struct {
	Digest       digest.Digest
	Size         int64
	DiffID       digest.Digest
	Uncompressed int64
}

const (
	blobFile = "layer.tar.gz"
	infoFile = "layer.json"
)

// writeBlob compresses what write produces into the layer's folder.
func writeBlob(dir string, write func(io.Writer) error) (layerInfo, error) {
	f, err := os.Create(filepath.Join(dir, blobFile))
	if err != nil {
		return layerInfo{}, err
	}
	defer f.Close()
	compressed, plain := newMeter(f), newMeter(nil)
	zip := gzip.NewWriter(compressed)
	plain.w = zip
	if err := errors.Join(write(plain), zip.Close(), f.Close()); err != nil {
		return layerInfo{}, fmt.Errorf("write layer: %w", err)
	}
	info := layerInfo{compressed.digester.Digest(), compressed.n, plain.digester.Digest(), plain.n}
	b, err := json.Marshal(info)
	if err != nil {
		return layerInfo{}, err
	}
	return info, os.WriteFile(filepath.Join(dir, infoFile), b, 0o644)
}

func readInfo(dir string) (info layerInfo, err error) {
	b, err := os.ReadFile(filepath.Join(dir, infoFile))
	if err != nil {
		return info, err
	}
	err = json.Unmarshal(b, &info)
	return info, err
}

// writeDiff writes what leads from one tree to the other as a layer, with
// whiteouts; from nothing when below is empty.
func writeDiff(ctx context.Context, w io.Writer, below, tree string) error {
	if below == "" {
		below = filepath.Join(filepath.Dir(tree), "nothing")
		if err := os.Mkdir(below, 0o755); err != nil {
			return err
		}
		defer os.Remove(below)
	}
	return archive.WriteDiff(ctx, w, below, tree)
}

// write streams the file as a layer; its random blocks follow from its path, so
// equal recipes give equal bytes.
func (s *sparse) write(ctx context.Context, w io.Writer) error {
	t := tar.NewWriter(w)
	stamp := time.Unix(1_700_000_000, 0)
	dir := &tar.Header{Typeflag: tar.TypeDir, Name: filepath.Dir(s.Path) + "/", Mode: 0o755, ModTime: stamp}
	file := &tar.Header{Typeflag: tar.TypeReg, Name: s.Path, Mode: 0o644, Size: s.Size, ModTime: stamp}
	if err := errors.Join(t.WriteHeader(dir), t.WriteHeader(file)); err != nil {
		return err
	}
	const random = 4096
	var seed [32]byte
	copy(seed[:], s.Path)
	source := rand.NewChaCha8(seed)
	block := make([]byte, s.Every)
	for left := s.Size; left > 0; left -= s.Every {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		_, _ = source.Read(block[:random]) // never fails
		if _, err := t.Write(block[:min(left, s.Every)]); err != nil {
			return err
		}
	}
	return t.Close()
}

// meter counts and digests what passes.
type meter struct {
	w        io.Writer
	digester digest.Digester
	n        int64
}

func newMeter(w io.Writer) *meter { return &meter{w: w, digester: digest.Canonical.Digester()} }

func (m *meter) Write(p []byte) (int, error) {
	n, err := m.w.Write(p)
	m.n += int64(n)
	_, _ = m.digester.Hash().Write(p[:n]) // never fails
	return n, err
}

package nydus

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"path"

	"github.com/opencontainers/go-digest"

	"github.com/referee-cri/referee/internal/layerstream"
	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/lazyblock"
)

// bootstrapName is the member of the layer's tar that is the bootstrap. Others may
// stand beside it and are of no use here.
const bootstrapName = "image/image.boot"

// Bounds of what is fetched and kept in memory: some 200 bytes a file, and 80 a
// chunk.
const (
	maxBootstrapLayer = 256 << 20
	maxBootstrap      = 512 << 20
	maxMembers        = 64
)

// image is a file in memory.
type image []byte

func (i image) Size() int64 { return int64(len(i)) }

func (i image) ReadRange(_ context.Context, p []byte, off int64) (int, error) {
	if off < 0 || off >= int64(len(i)) {
		return 0, io.EOF
	}
	n := copy(p, i[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// fetchBootstrap fetches the layer of the bootstrap, compares it with its digest
// and returns the bootstrap.
func fetchBootstrap(ctx context.Context, layer lazyblock.FormBlob) (image, error) {
	return lazyblock.Reread(ctx, layer.RangeReader, func(ctx context.Context, r lazyblock.RangeReader) (image, error) {
		whole, err := fetch(ctx, r, layer.Descriptor.Digest)
		if err != nil {
			return nil, err
		}
		return extract(whole)
	})
}

func fetch(ctx context.Context, r lazyblock.RangeReader, want digest.Digest) ([]byte, error) {
	if r.Size() <= 0 || r.Size() > maxBootstrapLayer {
		return nil, reason.Errorf(reason.NotAttachable, "layer of the bootstrap has %d bytes, want 1 to %d", r.Size(), maxBootstrapLayer)
	}
	whole := make([]byte, r.Size())
	if err := lazyblock.ReadFull(ctx, r, whole, 0); err != nil {
		return nil, err
	}
	if err := want.Validate(); err != nil {
		return nil, reason.Errorf(reason.ArtifactInvalid, "digest of the bootstrap's layer: %w", err)
	}
	if got := want.Algorithm().FromBytes(whole); got != want {
		return nil, reason.Errorf(reason.DigestMismatch, "layer of the bootstrap has the digest %s, want %s", got, want)
	}
	return whole, nil
}

// extract finds the bootstrap in the layer.
func extract(layer []byte) (image, error) {
	stream, err := layerstream.Decompress(bytes.NewReader(layer))
	if err != nil {
		return nil, corrupt("layer of the bootstrap: %w", err)
	}
	defer stream.Close()
	limited := &io.LimitedReader{R: stream, N: maxBootstrap + 1<<20}
	members := tar.NewReader(limited)
	for range maxMembers {
		header, err := members.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, corrupt("layer of the bootstrap: %w", err)
		}
		if path.Clean(header.Name) != bootstrapName || header.Typeflag != tar.TypeReg {
			continue
		}
		if header.Size > maxBootstrap {
			return nil, reason.Errorf(reason.NotAttachable, "bootstrap of %d bytes, more than %d", header.Size, maxBootstrap)
		}
		var content bytes.Buffer // grows with what is there, not with what is claimed
		if _, err := io.Copy(&content, members); err != nil {
			return nil, corrupt("bootstrap: %w", err)
		}
		return content.Bytes(), nil
	}
	return nil, corrupt("layer of the bootstrap has no %s", bootstrapName)
}

func corrupt(format string, args ...any) error {
	return reason.Errorf(reason.FormatCorrupt, format, args...)
}

func refused(format string, args ...any) error {
	return reason.Errorf(reason.NotAttachable, format, args...)
}

package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"

	"github.com/referee-cri/referee/internal/layerstream"
	"github.com/referee-cri/referee/internal/reason"
)

// Tarball is a layer's plain bytes on their way from a registry. Two goroutines
// read ahead, one of compressed and one of plain bytes; Close waits for both.
type Tarball struct {
	cancel     context.CancelFunc
	blob       io.ReadCloser
	compressed *ahead
	plain      *ahead
	whole      *content.VerifyReader // sees every byte of the blob
	diffID     digest.Digest
	diff       digest.Verifier // sees every plain byte
}

// Open fetches layer i, counted from 0, bottom first. A layer of more than maxSize
// plain bytes is an error; read counts the bytes of the blob that were read.
func (s *Image) Open(ctx context.Context, i int, maxSize int64, read *atomic.Int64) (*Tarball, error) {
	desc := s.Manifest.Layers[i]
	ctx, cancel := context.WithCancel(ctx)
	blob, err := s.fetcher.Fetch(ctx, desc)
	if err != nil {
		cancel()
		return nil, fmt.Errorf("fetch: %w", err)
	}
	t := newTarball(blob, desc, s.DiffIDs[i], maxSize, read)
	t.cancel = cancel
	return t, nil
}

// newTarball takes ownership of blob.
func newTarball(blob io.ReadCloser, desc ocispec.Descriptor, diffID digest.Digest, maxSize int64, read *atomic.Int64) *Tarball {
	t := &Tarball{blob: blob, diffID: diffID, diff: diffID.Verifier()}
	t.whole = content.NewVerifyReader(&counted{blob, read}, desc)
	t.compressed = readAhead(fetched{t.whole})
	t.plain = readAhead(&unpacked{compressed: t.compressed, seen: t.diff, left: maxSize})
	return t
}

// Read reads plain bytes. Errors carry the code of whom they blame: the registry or
// the layer.
func (t *Tarball) Read(p []byte) (int, error) { return t.plain.Read(p) }

// Verify reads what is left behind the tar's end mark and compares both digests:
// that of the blob, and the diff ID.
func (t *Tarball) Verify() error {
	if _, err := io.Copy(io.Discard, t.plain); err != nil {
		return fmt.Errorf("read layer: %w", err)
	}
	if _, err := io.Copy(io.Discard, t.compressed); err != nil {
		return fmt.Errorf("read layer: %w", err)
	}
	if err := t.whole.Verify(); err != nil {
		return reason.Errorf(reason.DigestMismatch, "verify layer: %w", err)
	}
	if !t.diff.Verified() {
		return reason.Errorf(reason.DigestMismatch, "layer's plain bytes are not those of diff ID %s", t.diffID)
	}
	return nil
}

// Close ends both goroutines, source first.
func (t *Tarball) Close() {
	t.cancel()         // first, so that a blocked fetch ends
	_ = t.blob.Close() // nothing was written to it
	t.compressed.Close()
	t.plain.Close()
}

// ErrTooLarge is wrapped by what Read returns when a layer has more plain bytes than
// Open was told to take.
var ErrTooLarge = errors.New("uncompressed layer is too large")

// unpacked decompresses, shows every byte to seen and ends after left bytes
// with an error.
type unpacked struct {
	compressed io.Reader
	plain      io.ReadCloser // opened by the first Read, which may block
	seen       io.Writer
	left       int64
}

func (u *unpacked) Read(p []byte) (int, error) {
	if u.plain == nil {
		var err error
		if u.plain, err = layerstream.Decompress(u.compressed); err != nil {
			return 0, reason.Errorf(reason.ArtifactInvalid, "decompress: %w", err)
		}
	}
	n, err := u.plain.Read(p)
	if u.left -= int64(n); u.left < 0 {
		return 0, reason.Errorf(reason.ArtifactInvalid, "%w", ErrTooLarge)
	}
	if _, werr := u.seen.Write(p[:n]); werr != nil {
		return n, werr
	}
	if err == nil {
		return n, nil
	}
	_ = u.plain.Close() // frees a decoder's memory; there is nothing to flush
	if !errors.Is(err, io.EOF) {
		err = reason.Errorf(reason.ArtifactInvalid, "decompress: %w", err)
	}
	return n, err
}

// fetched gives errors of the registry a code, so that whoever reads further
// down the stream does not blame the content.
type fetched struct{ r io.Reader }

func (f fetched) Read(p []byte) (int, error) {
	n, err := f.r.Read(p)
	if err == nil || errors.Is(err, io.EOF) {
		return n, err
	}
	code := reason.Of(err)
	if code == reason.Internal {
		code = reason.RegistryError
	}
	return n, reason.Wrap(code, fmt.Errorf("fetch: %w", err))
}

// counted counts the bytes read.
type counted struct {
	r io.Reader
	n *atomic.Int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n.Add(int64(n))
	return n, err
}

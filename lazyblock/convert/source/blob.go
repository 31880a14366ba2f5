package source

import (
	"context"
	"fmt"
	"io"
	"sync/atomic"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"

	"github.com/referee-cri/referee/internal/reason"
)

// Fetch returns a blob of the image as it is stored. What is read is not checked.
func (s *Image) Fetch(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	return s.fetcher.Fetch(ctx, d)
}

// Save writes layer i as it is stored, and checks its digest. read counts the bytes.
func (s *Image) Save(ctx context.Context, i int, w io.Writer, read *atomic.Int64) error {
	desc := s.Manifest.Layers[i]
	blob, err := s.fetcher.Fetch(ctx, desc)
	if err != nil {
		return fmt.Errorf("fetch: %w", err)
	}
	defer blob.Close()
	whole := content.NewVerifyReader(&counted{blob, read}, desc)
	if _, err := io.Copy(w, fetched{whole}); err != nil {
		return err
	}
	if err := whole.Verify(); err != nil {
		return reason.Errorf(reason.DigestMismatch, "verify layer: %w", err)
	}
	return nil
}

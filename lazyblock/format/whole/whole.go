// Package whole reads small blobs of a form to their end and compares them with
// their digest: tables of contents, indexes, metadata. It starts no goroutines and
// keeps nothing.
package whole

import (
	"context"
	"fmt"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/lazyblock"
)

// piece is how much is asked for at a time, so that a context ends a long read.
const piece = 4 << 20

// Read returns the bytes of a blob of at most limit bytes, which hash to its digest.
// Other bytes are dropped from the cache below, read once more, and then refused
// with reason.DigestMismatch. A longer blob gives reason.FormatCorrupt.
func Read(ctx context.Context, blob lazyblock.FormBlob, limit int64) ([]byte, error) {
	size := blob.Size()
	if size < 0 || size > limit {
		return nil, reason.Errorf(reason.FormatCorrupt, "blob %s is %d bytes, more than %d", blob.Descriptor.Digest, size, limit)
	}
	data := make([]byte, size)
	err := read(ctx, blob, data)
	cache, ok := blob.RangeReader.(lazyblock.Invalidator)
	if reason.Of(err) == reason.DigestMismatch && ok {
		_ = cache.Invalidate(ctx, 0, size) // what counts is that they are read anew now
		err = read(ctx, blob, data)
	}
	if err != nil {
		return nil, fmt.Errorf("read blob %s: %w", blob.Descriptor.Digest, err)
	}
	return data, nil
}

func read(ctx context.Context, blob lazyblock.FormBlob, data []byte) error {
	for at := 0; at < len(data); at += piece {
		if err := lazyblock.ReadFull(ctx, blob, data[at:min(len(data), at+piece)], int64(at)); err != nil {
			return err
		}
	}
	want := blob.Descriptor.Digest
	if err := want.Validate(); err != nil {
		return reason.Errorf(reason.ArtifactInvalid, "digest %q: %w", want, err)
	}
	if got := want.Algorithm().FromBytes(data); got != want {
		return reason.Errorf(reason.DigestMismatch, "its %d bytes hash to %s", len(data), got)
	}
	return nil
}

package whole

import (
	"bytes"
	"context"
	"io"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/lazyblock"
)

// rotten is a blob whose cache has other bytes until it is invalidated.
type rotten struct {
	good, bad []byte
	mended    bool
	hopeless  bool
}

func (r *rotten) Size() int64 { return int64(len(r.good)) }

func (r *rotten) ReadRange(_ context.Context, p []byte, off int64) (int, error) {
	data := r.bad
	if r.mended && !r.hopeless {
		data = r.good
	}
	if off >= int64(len(data)) {
		return 0, io.EOF
	}
	n := copy(p, data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (r *rotten) Invalidate(context.Context, int64, int64) error {
	r.mended = true
	return nil
}

func TestBytesAreComparedWithTheirDigest(t *testing.T) {
	t.Parallel()
	good := bytes.Repeat([]byte("table "), 1_000_000)
	bad := bytes.Clone(good)
	bad[5_000_000] ^= 1
	desc := ocispec.Descriptor{Digest: digest.FromBytes(good)}
	for name, tc := range map[string]struct {
		blob  *rotten
		desc  ocispec.Descriptor
		limit int64
		want  reason.Code
	}{
		"right":            {&rotten{good: good, bad: good}, desc, 10 << 20, reason.None},
		"rotten in cache":  {&rotten{good: good, bad: bad}, desc, 10 << 20, reason.None},
		"wrong everywhere": {&rotten{good: good, bad: bad, hopeless: true}, desc, 10 << 20, reason.DigestMismatch},
		"too short":        {&rotten{good: good, bad: good[:100]}, desc, 10 << 20, reason.FormatCorrupt},
		"too long":         {&rotten{good: good, bad: good}, desc, 1 << 20, reason.FormatCorrupt},
		"no digest":        {&rotten{good: good, bad: good}, ocispec.Descriptor{Digest: "x"}, 10 << 20, reason.ArtifactInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := Read(t.Context(), lazyblock.FormBlob{RangeReader: tc.blob, Descriptor: tc.desc}, tc.limit)
			if reason.Of(err) != tc.want || (err == nil) != bytes.Equal(got, good) {
				t.Errorf("got %d bytes and %v, want %q", len(got), err, tc.want)
			}
		})
	}
}

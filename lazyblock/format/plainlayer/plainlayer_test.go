package plainlayer

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/lazyblock"
)

// blobOf is a layer's blob, which is said to have the content of said.
func blobOf(data, said []byte) lazyblock.FormBlob {
	return lazyblock.FormBlob{RangeReader: lazyblock.InMemory(data), Descriptor: ocispec.Descriptor{Digest: digest.FromBytes(said), Size: int64(len(said))}}
}

// makeTar has two files, the first of two spans.
func makeTar(t testing.TB) []byte {
	t.Helper()
	rng := rand.New(rand.NewPCG(1, 1))
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, size := range map[string]int{"large": spanSize + 7, "small": 10} {
		content := make([]byte, size)
		for i := range content {
			content[i] = byte(rng.IntN(20))
		}
		if err := w.WriteHeader(&tar.Header{Name: name, Size: int64(size), Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func compress(t testing.TB, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := z.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// compressZstd makes a frame of every size bytes, and one that is skipped.
func compressZstd(t testing.TB, data []byte, size int, options ...zstd.EOption) []byte {
	t.Helper()
	z, err := zstd.NewWriter(nil, options...)
	if err != nil {
		t.Fatal(err)
	}
	blob := []byte{0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 'a', 'b', 'c'}
	for part := range slices.Chunk(data, size) {
		blob = z.EncodeAll(part, blob)
	}
	return blob
}

func TestALayerIsReadFromItsMiddle(t *testing.T) {
	t.Parallel()
	data := makeTar(t)
	for name, blob := range map[string][]byte{
		"gzip":                       compress(t, data),
		"zstd":                       compressZstd(t, data, len(data))[11:],
		"zstd frames":                compressZstd(t, data, 100_000),
		"zstd frames of one segment": compressZstd(t, data, 1000, zstd.WithSingleSegment(true), zstd.WithEncoderCRC(false)),
		"uncompressed":               data,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			layer, err := Open(t.Context(), blobOf(blob, blob), nil)
			if err != nil {
				t.Fatal(err)
			}
			if got := layer.Content.Size(); got != int64(len(data)) {
				t.Errorf("content of %d bytes, want %d", got, len(data))
			}
			files := 0
			for entry, err := range layer.Entries {
				if err != nil {
					t.Fatal(err)
				}
				files++
				got := make([]byte, entry.Inode.Size)
				if err := lazyblock.ReadFull(t.Context(), layer.Content, got, entry.At); err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(got, data[entry.At:entry.At+entry.Inode.Size]) {
					t.Errorf("%s is wrong", entry.Name)
				}
			}
			if files != 2 {
				t.Errorf("%d files, want 2", files)
			}
		})
	}
}

func TestOtherLayersAreRefused(t *testing.T) {
	t.Parallel()
	data := makeTar(t)
	gz := compress(t, data)
	z := compressZstd(t, data, len(data))
	flipped := bytes.Clone(z)
	flipped[len(z)/2] ^= 1
	zeros := make([]byte, maxFrame+1)
	large := compressZstd(t, zeros, len(zeros), zstd.WithZeroFrames(true))
	claims := append(bytes.Clone(zstdMagic), 0xa0, 0, 0, 0, 0x7f, 1, 0, 0) // 2 GiB, one empty block
	for name, tc := range map[string]struct {
		data, said []byte
		want       reason.Code
	}{
		"other bytes than its digest's": {gz, data, reason.DigestMismatch},
		"broken gzip":                   {gz[:len(gz)-9], gz[:len(gz)-9], reason.FormatCorrupt},
		"zstd without end":              {z[:len(z)-9], z[:len(z)-9], reason.FormatCorrupt},
		"zstd without content":          {zstdMagic, zstdMagic, reason.FormatCorrupt},
		"a skippable frame without end": {z[:10], z[:10], reason.FormatCorrupt},
		"broken zstd":                   {flipped, flipped, reason.FormatCorrupt},
		"a large zstd frame":            {large, large, reason.NoMatch},
		"a frame that says it is large": {claims, claims, reason.NoMatch},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := Open(t.Context(), blobOf(tc.data, tc.said), nil); reason.Of(err) != tc.want {
				t.Errorf("error %v, want one for the reason %q", err, tc.want)
			}
		})
	}
}

func TestNoMoreIsReadThanIsBearable(t *testing.T) {
	t.Parallel()
	if err := Check([]lazyblock.FormBlob{blobOf([]byte("a"), nil)}); err != nil {
		t.Error(err)
	}
	large := lazyblock.FormBlob{RangeReader: sized(MaxStored/2 + 1)}
	if err := Check([]lazyblock.FormBlob{large, large}); reason.Of(err) != reason.NoMatch {
		t.Errorf("error %v, want one that there is too much", err)
	}
	c := &counter{r: bytes.NewReader(make([]byte, 10)), sums: &summer{}, n: maxTar - 1}
	if _, err := c.Read(make([]byte, 10)); reason.Of(err) != reason.NoMatch {
		t.Errorf("error %v, want one that it inflates to too much", err)
	}
}

// sized is a blob of which nobody reads.
type sized int64

func (s sized) Size() int64 { return int64(s) }

func (sized) ReadRange(context.Context, []byte, int64) (int, error) { panic("nobody reads") }

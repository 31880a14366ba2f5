package span

import (
	"bytes"
	"context"
	"errors"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
)

// key by which the test's spans are "compressed".
const scramble = 0x5A

// sequence is decoded bytes with a blob that holds them in spans.
type sequence struct {
	plain []byte
	spans []Span
	sums  []uint32
	raw   map[int]bool
	blob  *memoryBlob

	decoded atomic.Int64 // how often a span was decoded
}

// makeSequence makes n spans of 1 to longest bytes, some behind a gap, some raw,
// in a shuffled order in the blob if shuffled.
func makeSequence(rng *rand.Rand, n, longest int, shuffled bool) *sequence {
	s := &sequence{raw: map[int]bool{}, blob: &memoryBlob{}}
	for i := range n {
		if rng.IntN(4) == 0 {
			s.plain = append(s.plain, make([]byte, rng.IntN(longest))...)
		}
		span := Span{At: int64(len(s.plain)), Size: 1 + rng.Int64N(int64(longest))}
		for range span.Size {
			s.plain = append(s.plain, byte(rng.Uint32()))
		}
		s.spans = append(s.spans, span)
		s.raw[i] = rng.IntN(4) == 0
		s.sums = append(s.sums, crc32.ChecksumIEEE(s.plain[span.At:span.end()]))
	}
	order := rng.Perm(n)
	for i := range n {
		if shuffled {
			i = order[i]
		}
		span := &s.spans[i]
		s.blob.data = append(s.blob.data, make([]byte, rng.IntN(100))...)
		span.Off, span.Stored = int64(len(s.blob.data)), span.Size
		for _, c := range s.plain[span.At:span.end()] {
			if !s.raw[i] {
				c ^= scramble
			}
			s.blob.data = append(s.blob.data, c)
		}
	}
	s.plain = append(s.plain, make([]byte, rng.IntN(100))...)
	return s
}

func (s *sequence) decode(i int, dst, src []byte) error {
	s.decoded.Add(1)
	for j := range dst {
		dst[j] = src[j] ^ scramble
	}
	if crc32.ChecksumIEEE(dst) != s.sums[i] {
		return errors.New("wrong checksum")
	}
	return nil
}

func (s *sequence) open(t testing.TB, opts Options) *Reader {
	t.Helper()
	opts.Size = int64(len(s.plain))
	opts.Raw = func(i int) bool { return s.raw[i] }
	r, err := New(s.blob, s.spans, s.decode, opts)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// expect reads n bytes from off and compares them.
func (s *sequence) expect(t testing.TB, r *Reader, off, n int) {
	t.Helper()
	p := bytes.Repeat([]byte{0xEE}, n)
	got, err := r.ReadRange(t.Context(), p, int64(off))
	want := min(n, len(s.plain)-off)
	if got != want || want == n && err != nil || want < n && !errors.Is(err, io.EOF) {
		t.Fatalf("read %d bytes at %d: %d, %v, want %d", n, off, got, err, want)
	}
	if !bytes.Equal(p[:got], s.plain[off:off+got]) {
		t.Fatalf("read %d bytes at %d: wrong bytes", n, off)
	}
}

// memoryBlob is a blob that counts, and spoils what it is told to.
type memoryBlob struct {
	mu          sync.Mutex
	data        []byte
	reads       int
	invalidated []Span // Off and Stored
	before      func(off int64, p []byte) error
	after       func(off int64, p []byte)
}

func (b *memoryBlob) Size() int64 { return int64(len(b.data)) }

func (b *memoryBlob) ReadRange(ctx context.Context, p []byte, off int64) (int, error) {
	b.mu.Lock()
	b.reads++
	before, after := b.before, b.after
	b.mu.Unlock()
	if before != nil {
		if err := before(off, p); err != nil {
			return 0, err
		}
	}
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	n, err := bytes.NewReader(b.data).ReadAt(p, off)
	if after != nil {
		after(off, p[:n])
	}
	return n, err
}

// cachedBlob can be told to fetch again.
type cachedBlob struct{ *memoryBlob }

func (b cachedBlob) Invalidate(_ context.Context, off, n int64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.invalidated = append(b.invalidated, Span{Off: off, Stored: n})
	return nil
}

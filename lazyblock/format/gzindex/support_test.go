package gzindex

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"
)

// content is bytes of several kinds one after the other: text, noise, zeros, and
// patterns of every short period.
func content(seed uint64, size int) []byte {
	rng := rand.New(rand.NewPCG(seed, 1))
	var words [64][]byte
	for i := range words {
		words[i] = fmt.Appendf(nil, "%x ", rng.Uint64()>>rng.IntN(60))
	}
	out := make([]byte, 0, size+64<<10)
	for len(out) < size {
		n := 1 + rng.IntN(64<<10)
		switch rng.IntN(5) {
		case 0:
			for range n {
				out = append(out, byte(rng.Uint32()))
			}
		case 1:
			out = append(out, make([]byte, n*4)...)
		case 2:
			pattern := words[rng.IntN(len(words))][:1+rng.IntN(2)]
			for range n / len(pattern) {
				out = append(out, pattern...)
			}
		default:
			for at := len(out); len(out) < at+n; {
				out = append(out, words[min(rng.IntN(64), rng.IntN(64))]...)
			}
		}
	}
	return out[:size]
}

// member compresses data as one member of a gzip file.
func member(t testing.TB, level int, data []byte, change func(*gzip.Header)) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := gzip.NewWriterLevel(&out, level)
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(&w.Header)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// members compresses data in members of size bytes each, as parallel compressors do.
func members(t testing.TB, level int, data []byte, size int) []byte {
	t.Helper()
	var out []byte
	for len(data) > 0 {
		n := min(size, len(data))
		out = append(out, member(t, level, data[:n], nil)...)
		data = data[n:]
	}
	return out
}

// index reads a gzip file to its end and returns an index of it, and what it holds.
func index(t testing.TB, file []byte, span int64) (*Index, []byte) {
	t.Helper()
	b := NewBuilder(span)
	data, err := io.ReadAll(NewReader(bytes.NewReader(file), b.Visit))
	if err != nil {
		t.Fatal(err)
	}
	x, err := b.Index(int64(len(file)), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	return x, data
}

// decode inflates span i out of the file.
func decode(x *Index, file []byte, i int) ([]byte, error) {
	_, size, in, stored := x.Span(i)
	dst := make([]byte, size)
	return dst, x.Decode(i, dst, file[in:in+stored])
}

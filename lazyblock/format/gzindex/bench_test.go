package gzindex

import (
	"bytes"
	stdgzip "compress/gzip"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/klauspost/compress/gzip"
)

// program is compressed as layers are: this test's own binary, which is machine code
// and tables as most of what images hold.
func program(b *testing.B) (file, data []byte) {
	b.Helper()
	path, err := os.Executable()
	if err == nil {
		data, err = os.ReadFile(filepath.Clean(path))
	}
	if err != nil {
		b.Fatal(err)
	}
	return member(b, stdgzip.DefaultCompression, data, nil), data
}

// BenchmarkInflate compares spans that are inflated from checkpoints with whole
// files that are read from their beginning, by libraries and by Reader.
func BenchmarkInflate(b *testing.B) {
	file, data := program(b)
	buf := make([]byte, 1<<20)
	sequential := func(open func() (io.Reader, error)) func(b *testing.B) {
		return func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				r, err := open()
				if err != nil {
					b.Fatal(err)
				}
				if _, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, r, buf); err != nil {
					b.Fatal(err)
				}
			}
		}
	}
	b.Run("compress/gzip", sequential(func() (io.Reader, error) { return stdgzip.NewReader(bytes.NewReader(file)) }))
	b.Run("klauspost", sequential(func() (io.Reader, error) { return gzip.NewReader(bytes.NewReader(file)) }))
	b.Run("Reader", sequential(func() (io.Reader, error) { return NewReader(bytes.NewReader(file), nil), nil }))
	b.Run("Reader, indexing", sequential(func() (io.Reader, error) {
		return NewReader(bytes.NewReader(file), NewBuilder(4<<20).Visit), nil
	}))
	for name, span := range map[string]int64{"spans of 4 MiB": 4 << 20, "spans of 1 MiB": 1 << 20, "spans of 64 KiB": 64 << 10} {
		x, _ := index(b, file, span)
		dst := make([]byte, len(data))
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			for b.Loop() {
				for i := range x.Checkpoints {
					out, size, in, stored := x.Span(i)
					if err := x.Decode(i, dst[out:out+size], file[in:in+stored]); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}

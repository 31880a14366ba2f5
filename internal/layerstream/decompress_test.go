package layerstream_test

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/referee-cri/referee/internal/layerstream"
)

func TestDecompress(t *testing.T) {
	t.Parallel()
	plain := []byte(strings.Repeat("a layer ", 1<<16))
	var zipped, wide bytes.Buffer
	z := gzip.NewWriter(&zipped)
	if _, err := z.Write(plain); err != nil || z.Close() != nil {
		t.Fatal(err)
	}
	encoder, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	frame := encoder.EncodeAll(plain, nil)
	// A frame header that asks for a window of 2 GiB (RFC 8878, 3.1.1.1.2).
	wide.Write([]byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, 21 << 3, 0x01, 0x00, 0x00})
	for name, tc := range map[string]struct {
		stored []byte
		want   []byte // nil: an error
	}{
		"gzip":                         {zipped.Bytes(), plain},
		"zstd":                         {frame, plain},
		"zstd behind a skippable one":  {append([]byte{0x53, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 'x', 'y'}, frame...), plain},
		"plain":                        {plain, plain},
		"nothing":                      {[]byte{}, []byte{}},
		"shorter than any magic":       {[]byte{0x28}, []byte{0x28}},
		"gzip cut short":               {zipped.Bytes()[:zipped.Len()/2], nil},
		"zstd cut short":               {frame[:len(frame)/2], nil},
		"zstd that wants a lot memory": {wide.Bytes(), nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := readAll(tc.stored)
			if tc.want == nil {
				if err == nil {
					t.Errorf("read %d bytes without an error", len(got))
				}
				return
			}
			if err != nil || !bytes.Equal(got, tc.want) {
				t.Errorf("read %d bytes, %v; want %d", len(got), err, len(tc.want))
			}
		})
	}
}

func readAll(stored []byte) ([]byte, error) {
	r, err := layerstream.Decompress(bytes.NewReader(stored))
	if err != nil {
		return nil, err
	}
	defer func() { _ = r.Close() }()
	return io.ReadAll(r)
}

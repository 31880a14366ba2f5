package interop_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"
	"time"

	fastgzip "github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"

	"github.com/referee-cri/referee/lazyblock/convert/imagetest"
	"github.com/referee-cri/referee/lazyblock/convert/source"
	"github.com/referee-cri/referee/lazyblock/convert/ztoc"
)

const sociVersion = "0.16.1"

// TestZtocsAreThoseOfSOCI has SOCI's own library, which looks for blocks with zlib,
// make the ztocs of layers of every kind of gzip, and compares bytes.
func TestZtocsAreThoseOfSOCI(t *testing.T) {
	t.Parallel()
	soci := newProgram(t, "soci-ztoc", sociVersion)
	large, small := imagetest.Tar(t, mixed()...), imagetest.Tar(t, imagetest.File("a", "content"))
	for name, tc := range map[string]struct {
		tar  []byte
		pack func([]byte) []byte
		span int64
	}{
		"usual":                {large, level(gzip.DefaultCompression), 256 << 10},
		"fast":                 {large, level(gzip.BestSpeed), 256 << 10},
		"small spans":          {large, level(gzip.BestCompression), 64 << 10},
		"one span":             {large, level(gzip.DefaultCompression), 16 << 20},
		"stored blocks":        {large, level(gzip.NoCompression), 256 << 10},
		"no matches":           {large, level(gzip.HuffmanOnly), 256 << 10},
		"of another library":   {large, klauspost, 256 << 10},
		"members":              {large, members(300_000), 256 << 10},
		"many members":         {large, members(5_000), 64 << 10},
		"header with a name":   {large, named, 256 << 10},
		"one file":             {small, imagetest.Gzip, 256 << 10},
		"nothing":              {imagetest.Tar(t), imagetest.Gzip, 256 << 10},
		"not compressed":       {large, imagetest.Plain, 256 << 10},
		"not compressed, tiny": {small, imagetest.Plain, 16 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			blob, algorithm := tc.pack(tc.tar), "gzip"
			if bytes.Equal(blob, tc.tar) {
				algorithm = "uncompressed"
			}
			layer := filepath.Join(t.TempDir(), "layer")
			write(t, layer, string(blob))
			want := soci.run(t, layer, algorithm, fmt.Sprint(tc.span))
			store, desc := imagetest.Image{Tars: [][]byte{tc.tar}, Pack: []func([]byte) []byte{tc.pack}}.Store(t)
			image, err := source.Read(t.Context(), store, desc)
			if err != nil {
				t.Fatal(err)
			}
			got, err := ztoc.Layer(t.Context(), image, 0, ztoc.Options{
				WorkDir: t.TempDir(), SpanSize: tc.span, MaxSize: 1 << 30, Progress: func(source.Progress) {},
			})
			if err != nil {
				t.Fatal(err)
			}
			if digest.FromBytes(got) != digest.FromString(want) {
				t.Errorf("%d bytes, SOCI's own library writes %d others", len(got), len(want))
			}
		})
	}
}

// mixed are files of text, noise and zeros, and entries of all types and attributes.
func mixed() []imagetest.Entry {
	random := rand.NewChaCha8([32]byte{7})
	entries := []imagetest.Entry{imagetest.Dir("d"), imagetest.Symlink("d/link", "../elsewhere"), imagetest.Hardlink("d/hard", "file0")}
	for i := range 12 {
		noise := make([]byte, 40_000*(i%4))
		_, _ = random.Read(noise) // never fails
		text := strings.Repeat(fmt.Sprint("line ", i, " of a text that compresses\n"), 3_000*(i%3))
		entries = append(entries, imagetest.File(fmt.Sprint("file", i), text+string(noise)+strings.Repeat("\x00", 200_000*(i%2))))
	}
	odd := imagetest.File("d/"+strings.Repeat("long", 60), "x")
	odd.Uid, odd.Gid, odd.Uname, odd.Gname, odd.Mode = 3_000_000, 3_000_001, "user", "group", 0o4755
	odd.ModTime = time.Unix(1700000000, 123456789)
	odd.PAXRecords = map[string]string{"SCHILY.xattr.user.b": "\x00\xff", "SCHILY.xattr.user.a": "a"}
	device := imagetest.Entry{Header: tar.Header{Typeflag: tar.TypeChar, Name: "null", Devmajor: 1, Devminor: 3, Mode: 0o666}}
	fifo := imagetest.Entry{Header: tar.Header{Typeflag: tar.TypeFifo, Name: "fifo", ModTime: time.Unix(0, 0)}}
	return append(entries, odd, device, fifo, imagetest.File(".wh.gone", ""))
}

func level(level int) func([]byte) []byte {
	return func(b []byte) []byte {
		var out bytes.Buffer
		w, err := gzip.NewWriterLevel(&out, level)
		return closed(w, err, b, &out)
	}
}

func klauspost(b []byte) []byte {
	var out bytes.Buffer
	return closed(fastgzip.NewWriter(&out), nil, b, &out)
}

// named has a header that is longer than the usual ten bytes.
func named(b []byte) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	w.Name, w.Comment, w.Extra = "layer.tar", "of a test", []byte("extra")
	return closed(w, nil, b, &out)
}

// members compresses pieces apart, as parallel compressors do.
func members(size int) func([]byte) []byte {
	return func(b []byte) []byte {
		var out bytes.Buffer
		for len(b) > 0 {
			n := min(size, len(b))
			closed(gzip.NewWriter(&out), nil, b[:n], &out)
			b = b[n:]
		}
		return out.Bytes()
	}
}

// closed writes b through w, which writes to out. Memory takes everything.
func closed(w interface {
	Write([]byte) (int, error)
	Close() error
}, err error, b []byte, out *bytes.Buffer,
) []byte {
	if err != nil {
		return nil
	}
	_, _ = w.Write(b)
	_ = w.Close()
	return out.Bytes()
}

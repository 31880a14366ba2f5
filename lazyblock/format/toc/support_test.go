package toc

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"iter"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/content/oci"

	"github.com/referee-cri/referee/internal/testdata"
	"github.com/referee-cri/referee/lazyblock"
	"github.com/referee-cri/referee/lazyblock/tarinode"
)

// stream is a decompressed tar as a layer's content.
type stream struct {
	*bytes.Reader
	closed atomic.Int32
	reads  atomic.Int64
}

func (s *stream) ReadRange(ctx context.Context, p []byte, off int64) (int, error) {
	s.reads.Add(1)
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	return s.ReadAt(p, off)
}

func (s *stream) Size() int64 { return s.Reader.Size() }

func (s *stream) Close() error {
	s.closed.Add(1)
	return nil
}

// tarLayer is a layer whose content is its tar.
func tarLayer(data []byte) (Layer, *stream) {
	s := &stream{Reader: bytes.NewReader(data)}
	return Layer{Entries: tarEntries(data), Content: s}, s
}

func tarEntries(data []byte) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		r := bytes.NewReader(data)
		for tr := tar.NewReader(r); ; {
			header, err := tr.Next()
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				yield(Entry{}, err)
				return
			}
			in, err := tarinode.Of(header)
			entry := Entry{Name: header.Name, Inode: in, At: int64(len(data) - r.Len())}
			entry.Inode.Size = header.Size
			if header.Typeflag == tar.TypeLink {
				entry.Link = header.Linkname
			}
			if !yield(entry, err) {
				return
			}
		}
	}
}

// makeTar writes files, in order, as one layer.
func makeTar(t testing.TB, files ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i, header := range files {
		header.Format = tar.FormatPAX
		if header.Typeflag == 0 {
			header.Typeflag = tar.TypeReg
		}
		if err := w.WriteHeader(&header); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(bytes.Repeat([]byte{byte(i + 1)}, int(header.Size))); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// referenceTars are the decompressed layers of an image of the reference data.
func referenceTars(t testing.TB, tag string) [][]byte {
	t.Helper()
	ctx := context.Background()
	store, err := oci.NewFromFS(ctx, os.DirFS(filepath.Join(testdata.Dir(t, "reference"), "tiny")))
	if err != nil {
		t.Fatal(err)
	}
	desc, err := store.Resolve(ctx, tag)
	if err != nil {
		t.Fatal(err)
	}
	descs, err := content.Successors(ctx, store, desc)
	if err != nil {
		t.Fatal(err)
	}
	var tars [][]byte
	for _, d := range descs {
		if d.MediaType != ocispec.MediaTypeImageLayerGzip {
			continue
		}
		blob, err := content.FetchAll(ctx, store, d)
		if err != nil {
			t.Fatal(err)
		}
		z, err := gzip.NewReader(bytes.NewReader(blob))
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(z)
		if err != nil {
			t.Fatal(err)
		}
		tars = append(tars, data)
	}
	return tars
}

// open opens a volume of tars that is closed when the test ends.
func open(t testing.TB, tars ...[]byte) lazyblock.Volume {
	t.Helper()
	layers := make([]Layer, len(tars))
	for i, data := range tars {
		layers[i], _ = tarLayer(data)
	}
	v, err := Open(t.Context(), "test", layers, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { v.Close() })
	return v
}

// dump reads all of a device in pieces of step bytes.
func dump(t testing.TB, d lazyblock.Device, step int) []byte {
	t.Helper()
	data := make([]byte, d.Size())
	for off := 0; off < len(data); off += step {
		if _, err := d.ReadRange(t.Context(), data[off:min(off+step, len(data))], int64(off)); err != nil {
			t.Fatal(err)
		}
	}
	return data
}

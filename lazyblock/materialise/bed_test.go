package materialise

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/zap/zaptest"

	"github.com/referee-cri/referee/internal/registry"
	"github.com/referee-cri/referee/internal/regtest"
)

// bed is a registry, a repository in it, and a directory to work in.
type bed struct {
	*regtest.Registry

	repo *registry.Repository
	dir  string // holds nothing but what Layers makes
}

// newBed works in memory, where syncing waits for nobody else's writes.
func newBed(t *testing.T) *bed {
	t.Helper()
	b := newDiskBed(t)
	b.mountSmall(t, "size=64m")
	return b
}

// newDiskBed works where containerd would.
func newDiskBed(t *testing.T) *bed {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: layers hold devices and other users' files")
	}
	b := &bed{Registry: regtest.New(t, regtest.Options{}), dir: t.TempDir()}
	client := registry.New(registry.Options{HostDirs: []string{t.TempDir()}, DownTime: time.Millisecond, Log: zaptest.NewLogger(t)})
	t.Cleanup(func() { _ = client.Close() })
	var err error
	if b.repo, err = client.Repository(b.Host()+"/app", registry.Credentials{}); err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *bed) tree() string { return filepath.Join(b.dir, "tree") }

// make runs Layers with short pauses.
func (b *bed) make(t *testing.T, layers []Layer) error {
	t.Helper()
	return Layers(t.Context(), b.tree(), layers, b.repo, b.options())
}

func (*bed) options() Options {
	return Options{StallTimeout: 300 * time.Millisecond, MinBackoff: time.Millisecond, Reserve: 1}
}

// expectNothing fails the test if anything is left of an attempt.
func (b *bed) expectNothing(t *testing.T) {
	t.Helper()
	entries, err := os.ReadDir(b.dir)
	if err != nil || len(entries) != 0 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

// push stores layers as blobs of that media type.
func (b *bed) push(t *testing.T, mediaType string, pack func(*testing.T, []byte) []byte, tars ...[]byte) []Layer {
	t.Helper()
	var layers []Layer
	for _, plain := range tars {
		desc, err := b.PutBlob(mediaType, pack(t, plain))
		if err != nil {
			t.Fatal(err)
		}
		layers = append(layers, Layer{Descriptor: desc, DiffID: digest.FromBytes(plain)})
	}
	return layers
}

func (b *bed) pushGzip(t *testing.T, tars ...[]byte) []Layer {
	t.Helper()
	return b.push(t, ocispec.MediaTypeImageLayerGzip, packGzip, tars...)
}

func packNot(_ *testing.T, plain []byte) []byte { return plain }

func packGzip(t *testing.T, plain []byte) []byte {
	t.Helper()
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	if _, err := w.Write(plain); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return packed.Bytes()
}

func packZstd(t *testing.T, plain []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	return w.EncodeAll(plain, nil)
}

// entry is a header, completed by makeTar, and a content.
type entry struct {
	tar.Header

	content string
}

func file(name, content string) entry {
	return entry{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644}, content}
}

func dir(name string, mode int64) entry {
	return entry{tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: mode}, ""}
}

func link(kind byte, name, target string) entry {
	return entry{tar.Header{Typeflag: kind, Name: name, Linkname: target, Mode: 0o777}, ""}
}

func with(e entry, change func(*tar.Header)) entry {
	change(&e.Header)
	return e
}

func makeTar(t *testing.T, entries ...entry) []byte {
	t.Helper()
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for _, e := range entries {
		e.Size, e.Format = int64(len(e.content)), tar.FormatPAX
		if e.ModTime.IsZero() {
			e.ModTime = time.Unix(1700000000, 0)
		}
		if err := w.WriteHeader(&e.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(e.content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return archive.Bytes()
}

package e2e_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/e2e/node"
	"github.com/referee-cri/referee/fallback"
	"github.com/referee-cri/referee/internal/regtest"
	"github.com/referee-cri/referee/internal/testdata"
)

// shelf is an image with files to be read one after another, each for the first
// time: what has been read is in the kernel's page cache and cannot fail.
type shelf struct {
	ref  string
	sums []string // hex SHA-256 of /f/<i>
	read int      // so many of the last ones
}

// fileSize is more than what opening and converting leave in the cache.
const fileSize = 4 << 20

// newShelf pushes an image of n incompressible files and converts it to overlaybd.
func (b *bed) newShelf(t *testing.T, layout string, n int) *shelf {
	t.Helper()
	return b.newShelfAs(t, layout, n, "overlaybd")
}

func (b *bed) newShelfAs(t *testing.T, layout string, n int, format string) *shelf {
	t.Helper()
	s := &shelf{ref: b.registry.Ref("shelf", "1")}
	base := readLayout(t, layout, "tiny")
	b.putBlob(t, layout, base.manifest.Layers[0]) // busybox
	plain, packed := s.layer(t, n)
	layer, err := b.registry.PutBlob(ocispec.MediaTypeImageLayerGzip, packed)
	if err != nil {
		t.Fatal(err)
	}
	config := ocispec.Image{Platform: base.config.Platform, RootFS: ocispec.RootFS{
		Type: "layers", DiffIDs: []digest.Digest{base.config.RootFS.DiffIDs[0], digest.FromBytes(plain)},
	}}
	c, err := b.registry.PutBlob(ocispec.MediaTypeImageConfig, mustJSON(t, config))
	if err != nil {
		t.Fatal(err)
	}
	_, err = b.registry.PutJSON("shelf", "1", ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: c, Layers: []ocispec.Descriptor{base.manifest.Layers[0], layer},
	})
	if err != nil {
		t.Fatal(err)
	}
	b.run(t, "convert", "--to", format, s.ref)
	return s
}

func (s *shelf) layer(t *testing.T, n int) (plain, packed []byte) {
	t.Helper()
	var archive, zipped bytes.Buffer
	w := tar.NewWriter(&archive)
	z, err := gzip.NewWriterLevel(&zipped, gzip.NoCompression)
	if err != nil {
		t.Fatal(err)
	}
	source := rand.NewChaCha8([32]byte{1})
	content := make([]byte, fileSize)
	for i := range n {
		_, _ = source.Read(content) // never fails
		s.sums = append(s.sums, fmt.Sprintf("%x", sha256.Sum256(content)))
		if err := w.WriteHeader(&tar.Header{Name: fmt.Sprintf("f/%d", i), Mode: 0o644, Size: fileSize}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := z.Write(archive.Bytes()); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return archive.Bytes(), zipped.Bytes()
}

// readNew lets the container read a file of which nothing has been read. The last
// comes first: reading ahead runs into the file behind.
func (s *shelf) readNew(t *testing.T, container *node.Container) reading {
	t.Helper()
	s.read++
	return s.readFile(t, container, len(s.sums)-s.read)
}

// reading is how one file was read.
type reading struct {
	file  int
	right bool // the container got the file's bytes
	says  string
	took  time.Duration
}

func (s *shelf) readFile(t *testing.T, container *node.Container, i int) reading {
	t.Helper()
	path := fmt.Sprintf("/f/%d", i)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	started := time.Now()
	result, err := container.Exec(ctx, "/bin/busybox", "sha256sum", path)
	if err != nil {
		t.Fatalf("read %s: %v", path, err)
	}
	r := reading{file: i, took: time.Since(started), says: result.Stdout + result.Stderr}
	if result.ExitCode == 0 {
		if r.right = result.Stdout == s.sums[i]+"  "+path+"\n"; !r.right {
			t.Errorf("the container read wrong bytes from %s: %s", path, r.says)
		}
	}
	return r
}

// giveUp is reads.give_up_after of the node.
const giveUp = 3 * time.Second

// TestReadsThroughFaults lets a running container read while its registry fails:
// for a while, which it must not notice but for the delay; and for good, which
// must end in an I/O error, until the registry is back.
func TestReadsThroughFaults(t *testing.T) {
	t.Parallel()
	b := newBed(t, node.Options{}, "[reads]\ngive_up_after = \""+giveUp.String()+"\"\n")
	faults := []struct {
		name  string
		fault regtest.Fault
	}{
		{"500", regtest.Fault{Status: 500}},
		{"404", regtest.Fault{Status: 404}},
		{"503 with Retry-After", regtest.Fault{Status: 503, Header: http.Header{"Retry-After": {"600"}}}},
		{"closed at once", regtest.Fault{Drop: true}},
		{"closed mid-body", regtest.Fault{CutAt: at(100)}},
		{"hangs", regtest.Fault{Hang: true}},
		{"wrong bytes", regtest.Fault{Rewrite: flipEach}},
	}
	s := b.newShelf(t, testdata.Dir(t, "reference")+"/tiny", 2*len(faults))
	b.pull(t, s.ref, fallback.Lazy)
	container := start(t, b.lazy, s.ref, "/bin/busybox", "sleep", "1000")
	for _, f := range faults {
		f.fault.Match = regtest.Path("/blobs/", http.MethodGet)
		t.Run(f.name+" for a while", func(t *testing.T) {
			const down = 700 * time.Millisecond
			remove := b.registry.Inject(f.fault)
			defer remove()
			defer time.AfterFunc(down, remove).Stop()
			r := s.readNew(t, container)
			if !r.right || r.took < down {
				t.Errorf("after %s: %s", r.took, r.says)
			}
		})
		t.Run(f.name+" for good", func(t *testing.T) {
			remove := b.registry.Inject(f.fault)
			defer remove()
			r := s.readNew(t, container)
			if r.right || !strings.Contains(r.says, "I/O error") && !strings.Contains(r.says, "Input/output error") {
				t.Errorf("after %s: %s, want an I/O error", r.took, r.says)
			}
			if r.took < giveUp || r.took > 2*giveUp {
				t.Errorf("the error came after %s, give_up_after is %s", r.took, giveUp)
			}
			t.Logf("I/O error after %s", r.took)
			remove()
			if r = s.readFile(t, container, r.file); !r.right {
				t.Errorf("the registry is back, yet after %s: %s", r.took, r.says)
			}
		})
	}
	// Each failure is one reader's I/O error and no more than a line in a while.
	if told := strings.Count(b.referee.Log(), "\ta container's read failed\t"); told < 1 || told > 3 {
		t.Errorf("the log has %d lines about failed reads", told)
	}
}

// flipEach inverts a byte in every 4 KiB.
func flipEach(body []byte) []byte {
	for i := 100; i < len(body); i += 4096 {
		body[i] ^= 0xff
	}
	return body
}

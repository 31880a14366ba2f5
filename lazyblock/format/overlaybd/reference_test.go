package overlaybd

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/referee-cri/referee/internal/testdata"
	"github.com/referee-cri/referee/lazyblock"
)

const (
	helloManifest = "sha256:42caa56a19e082b872d43f645bb392e25c9e78bce429755bd709fac598265f88"
	helloSHA256   = "d3f7d10e296e5c626ea78539cb38cd8dffd043bea3627da35ce3b20c0ac68014"
)

func helloWorld(t testing.TB) []lazyblock.RangeReader {
	t.Helper()
	return layoutLayers(t, filepath.Join(testdata.Dir(t, "overlaybd"), "real/layouts/hello-world-converted"), helloManifest)
}

// baseLayer returns the bare ZFile of 2021 in ext4_64.tar.gz.
func baseLayer(t testing.TB) lazyblock.RangeReader {
	t.Helper()
	f, err := os.Open(filepath.Join(testdata.Dir(t, "overlaybd"), "real/baselayer/ext4_64.tar.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	zr, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	tr := tar.NewReader(zr)
	if _, err := tr.Next(); err != nil {
		t.Fatal(err)
	}
	raw, err := io.ReadAll(tr)
	if err != nil {
		t.Fatal(err)
	}
	return bytesReader(raw)
}

// tool returns the path of a program, or skips.
func tool(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%s is not installed (e2fsprogs has it)", name)
	}
	return path
}

// fsck returns what e2fsck has to say about an image, the version line and the
// phases left out.
func fsck(t testing.TB, image string) (complaints []string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), tool(t, "e2fsck"), "-fn", image)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		line = strings.TrimSpace(line)
		if line != "" && !strings.HasPrefix(line, "Pass ") && !strings.HasPrefix(line, "e2fsck ") &&
			!strings.HasPrefix(line, image+": ") {
			complaints = append(complaints, line)
		}
	}
	return complaints
}

func TestHelloWorldOfStock(t *testing.T) {
	t.Parallel()
	d := openDevice(t, helloWorld(t)...)
	if got := checkEveryBlock(t, d); got != 17463 {
		t.Errorf("%d blocks, want 17463", got)
	}
	if got := len(d.layers[0].segments); got != 515 {
		t.Errorf("%d segments, want 515", got)
	}
	if got := d.Size(); got != 64<<30 {
		t.Errorf("size is %d, want 64 GiB", got)
	}
	if got, err := lazyblock.FSType(t.Context(), d); err != nil || got != "ext4" {
		t.Errorf("file system is %q, %v", got, err)
	}
	image := export(t, d)
	for _, line := range fsck(t, image) {
		if !strings.Contains(line, "HTREE") && !strings.Contains(line, "hash tree") && line != "Clear? no" &&
			!strings.Contains(line, "WARNING: Filesystem still has errors") {
			t.Errorf("e2fsck: %s", line)
		}
	}
	content, err := exec.CommandContext(t.Context(), tool(t, "debugfs"), "-R", "cat /hello", image).Output()
	if err != nil {
		t.Fatal(err)
	}
	if sum := sha256.Sum256(content); hex.EncodeToString(sum[:]) != helloSHA256 {
		t.Errorf("/hello has sha256 %x", sum)
	}
}

func TestBaseLayerWithUninitialisedFlags(t *testing.T) {
	t.Parallel()
	d := openDevice(t, baseLayer(t))
	if got := checkEveryBlock(t, d); got != 132309 {
		t.Errorf("%d blocks, want 132309", got)
	}
	zeroed := 0
	for _, s := range d.layers[0].segments {
		if s.zeroed() {
			zeroed++
		}
	}
	if got := len(d.layers[0].segments); got != 8323 || zeroed != 8209 {
		t.Errorf("%d segments, %d zeroed; want 8323, 8209", got, zeroed)
	}
	if complaints := fsck(t, export(t, d)); len(complaints) != 0 {
		t.Errorf("e2fsck: %q", complaints)
	}
}

// TestRewriteIsStocksBlob takes a layer of stock's apart and puts it together
// again: every byte of tar, ZFile, LZ4 blocks and LSMT must come out the same.
func TestRewriteIsStocksBlob(t *testing.T) {
	t.Parallel()
	native3 := filepath.Join(testdata.Dir(t, "overlaybd"), "generated-by-stock/native3")
	for name, blob := range map[string]lazyblock.RangeReader{
		"hello-world": helloWorld(t)[0],
		"n1":          openFile(t, filepath.Join(native3, "n1.lz4")),
		"n2":          openFile(t, filepath.Join(native3, "n2.lz4")),
		"n3":          openFile(t, filepath.Join(native3, "n3.lz4")),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			want := make([]byte, blob.Size())
			if err := lazyblock.ReadFull(t.Context(), blob, want, 0); err != nil {
				t.Fatal(err)
			}
			got := rewrite(t, blob)
			if !bytes.Equal(want[:tarPrefix], got[:tarPrefix]) {
				t.Errorf("tar headers differ:\n%x\n%x", want[:tarPrefix], got[:tarPrefix])
			}
			if !bytes.Equal(want, got) {
				t.Errorf("blob differs: %d and %d bytes", len(want), len(got))
			}
		})
	}
}

// rewrite writes the data of a layer through a LayerWriter.
func rewrite(t *testing.T, blob lazyblock.RangeReader) []byte {
	t.Helper()
	d := openDevice(t, blob)
	l := d.layers[0]
	head := make([]byte, lsmtHeaderSize)
	if err := scatter(t.Context(), []piece{{l, 0, head}}); err != nil {
		t.Fatal(err)
	}
	text := func(p []byte) string { return string(bytes.TrimRight(p, "\x00")) }
	path := filepath.Join(t.TempDir(), "layer")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w, err := NewLayerWriter(f, LayerOptions{
		VirtualSize: d.Size(), UUID: text(head[56:93]), ParentUUID: text(head[93:130]), UserTag: text(head[134:390]),
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range l.segments {
		p := make([]byte, s.sectors()*sector)
		if _, err := d.ReadRange(t.Context(), p, byteStart(s)); err != nil {
			t.Fatal(err)
		}
		if _, err := w.WriteAt(p, byteStart(s)); err != nil {
			t.Fatal(err)
		}
	}
	size, err := w.Finish(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if int64(len(raw)) != size {
		t.Errorf("Finish says %d bytes, the file has %d", size, len(raw))
	}
	return raw
}

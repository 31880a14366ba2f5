package convert

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/referee-cri/referee/internal/fsimage"
	"github.com/referee-cri/referee/internal/treecmp"
	"github.com/referee-cri/referee/lazyblock/convert/imagetest"
	"github.com/referee-cri/referee/lazyblock/erofs"
)

// TestExtremesMount lets the kernel read what is unusual in size or number.
func TestExtremesMount(t *testing.T) {
	t.Parallel()
	var many []imagetest.Entry
	for i := range 20_000 {
		many = append(many, imagetest.File(fmt.Sprintf("many/%0*d", 1+i%200, i), ""))
	}
	xattrs := map[string]string{}
	for i := range 300 {
		xattrs[fmt.Sprintf("SCHILY.xattr.user.%03d", i)] = strings.Repeat("v", i)
	}
	rich := imagetest.Dir("rich/dir")
	rich.PAXRecords = xattrs
	richFile := imagetest.File("rich/file", "content")
	richFile.PAXRecords = map[string]string{"SCHILY.xattr.user.large": strings.Repeat("\x00v", 32767), "SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"}
	times := imagetest.File("times", "x")
	times.ModTime = time.Unix(9_000_000_000, 123456789)
	layers := map[string][][]byte{
		"20,000 names":   {imagetest.Tar(t, many...)},
		"longest names":  {imagetest.Tar(t, imagetest.File(strings.Repeat("n", 255), "1"), imagetest.File(strings.Repeat("\xff", 255), "2"), imagetest.Symlink("l"+strings.Repeat("é", 127), strings.Repeat("t", 4095)))},
		"names by bytes": {imagetest.Tar(t, imagetest.File("a b/!", ""), imagetest.File("a b/\x01", ""), imagetest.File("a b/-", ""), imagetest.File("a b/\xc3\xa4", ""), imagetest.File("a b/..a", ""), imagetest.File("a b/...", ""), imagetest.File("a b/ ", ""))},
		"deep tree":      {imagetest.Tar(t, imagetest.File(strings.Repeat("d/", 200)+"f", "deep"))},
		"deepest tree":   {imagetest.Tar(t, imagetest.File(strings.Repeat("d/", 1000)+"f", "deep"))},
		"attributes":     {imagetest.Tar(t, rich, richFile)},
		"late time":      {imagetest.Tar(t, times)},
		"empty layers":   {imagetest.Tar(t), imagetest.Tar(t, imagetest.File("a", "b")), imagetest.Tar(t), nil},
		"nothing at all": {imagetest.Tar(t)},
	}
	for name, tars := range layers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			readers := make([]io.Reader, len(tars))
			for i, tarball := range tars {
				readers[i] = bytes.NewReader(tarball)
			}
			want, err := treecmp.FromLayers(readers...)
			if err != nil {
				t.Fatal(err)
			}
			image := writeDisk(t, tars...)
			if name != "deepest tree" { // fsck.erofs 1.5 overflows its stack on a thousand levels
				fsimage.CheckEROFS(t, image)
			}
			treecmp.ExpectAt(t, want, fsimage.MountFile(t, image))
		})
	}
}

// holes reads as zeros with a few marks.
type holes struct {
	size, off int64
	marks     map[int64]byte
}

func (h *holes) Read(p []byte) (int, error) {
	if h.off == h.size {
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), h.size-h.off))
	clear(p[:n])
	for at, b := range h.marks {
		if at >= h.off && at < h.off+int64(n) {
			p[at-h.off] = b
		}
	}
	h.off += int64(n)
	return n, nil
}

// TestFileOverFourGiB streams a file that needs 64-bit sizes and checks that
// neither memory nor disk grow with it.
func TestFileOverFourGiB(t *testing.T) {
	t.Parallel()
	const size = 5<<30 + 12345
	marks := map[int64]byte{0: 1, 1 << 32: 2, 1<<32 + 4096: 3, size - 1: 4}
	in, out := io.Pipe()
	go func() { // ends when everything is read, or the reader is closed
		w := tar.NewWriter(out)
		err := w.WriteHeader(&tar.Header{Name: "large", Size: size, Mode: 0o600, Typeflag: tar.TypeReg})
		if err == nil {
			_, err = io.Copy(w, &holes{size: size, marks: marks})
		}
		if err == nil {
			err = w.Close()
		}
		out.CloseWithError(err)
	}()
	defer in.Close()
	path := filepath.Join(t.TempDir(), "disk")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	d := newDisk(erofs.Limits{})
	counter := &countingWriter{f: f}
	if err := d.addLayer(t.Context(), in, trustAll, counter, virtualSize, [16]byte{}); err != nil {
		t.Fatal(err)
	}
	if counter.n > 10*4096 {
		t.Errorf("%d bytes written for a file of four blocks and holes", counter.n)
	}
	if err := f.Truncate(int64(d.end) << blockBits); err != nil {
		t.Fatal(err)
	}
	mounted, err := os.Open(filepath.Join(fsimage.MountFile(t, path), "large"))
	if err != nil {
		t.Fatal(err)
	}
	defer mounted.Close()
	if info, err := mounted.Stat(); err != nil || info.Size() != size {
		t.Fatalf("size %d, want %d: %v", info.Size(), int64(size), err)
	}
	for at, want := range marks {
		var b [2]byte
		if n, err := mounted.ReadAt(b[:], at); n == 0 || b[0] != want || b[1] != 0 {
			t.Errorf("at %d: %v, want %d: %v", at, b, want, err)
		}
	}
}

type countingWriter struct {
	f *os.File
	n int64
}

func (c *countingWriter) WriteAt(p []byte, off int64) (int, error) {
	c.n += int64(len(p))
	return c.f.WriteAt(p, off)
}

// TestSparseTarFiles reads what GNU tar makes of files with holes, in all the
// ways it can spell them.
func TestSparseTarFiles(t *testing.T) {
	t.Parallel()
	content := make([]byte, 300_000)
	copy(content[100_000:], "data")
	copy(content[250_000:], "more")
	sum := sha256.Sum256(content)
	for _, format := range []string{"gnu", "posix --sparse-version=0.0", "posix --sparse-version=0.1", "posix --sparse-version=1.0"} {
		t.Run(format, func(t *testing.T) {
			t.Parallel()
			source := t.TempDir()
			f, err := os.Create(filepath.Join(source, "sparse"))
			if err != nil {
				t.Fatal(err)
			}
			for _, at := range []int{100_000, 250_000} {
				if _, err := f.WriteAt(content[at:at+4], int64(at)); err != nil {
					t.Fatal(err)
				}
			}
			if err := f.Truncate(int64(len(content))); err != nil {
				t.Fatal(err)
			}
			f.Close()
			image := writeDisk(t, gnuTar(t, source, strings.Fields("--sparse --format="+format)...))
			got, err := treecmp.List(fsimage.MountFile(t, image))
			if err != nil {
				t.Fatal(err)
			}
			if e := got["/sparse"]; e.Size != int64(len(content)) || e.SHA256 != hex.EncodeToString(sum[:]) {
				t.Errorf("got %+v", e)
			}
		})
	}
}

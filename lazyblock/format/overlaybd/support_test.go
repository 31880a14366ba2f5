package overlaybd

import (
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/referee-cri/referee/lazyblock"
)

// fileReader is a blob in a file.
type fileReader struct {
	f    *os.File
	size int64
}

func openFile(t testing.TB, path string) lazyblock.RangeReader {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return fileReader{f, info.Size()}
}

func (r fileReader) ReadRange(ctx context.Context, p []byte, off int64) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	return r.f.ReadAt(p, off)
}

func (r fileReader) Size() int64 { return r.size }

// bytesReader is a blob in memory.
type bytesReader []byte

func (r bytesReader) ReadRange(ctx context.Context, p []byte, off int64) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if off >= int64(len(r)) {
		return 0, io.EOF
	}
	n := copy(p, r[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (r bytesReader) Size() int64 { return int64(len(r)) }

func openDevice(t testing.TB, blobs ...lazyblock.RangeReader) *Device {
	t.Helper()
	d, err := Open(t.Context(), blobs, t.Name())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// layoutLayers opens the layers of the image that is tagged tag, or has the
// digest tag, in an OCI layout.
func layoutLayers(t testing.TB, layout, tag string) []lazyblock.RangeReader {
	t.Helper()
	type descriptor struct {
		Digest      string            `json:"digest"`
		Annotations map[string]string `json:"annotations"`
	}
	read := func(path string, v any) {
		raw, err := os.ReadFile(path)
		if err == nil {
			err = json.Unmarshal(raw, v)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	blob := func(digest string) string {
		return filepath.Join(layout, "blobs", strings.Replace(digest, ":", "/", 1))
	}
	digest := tag
	if !strings.Contains(tag, ":") {
		var index struct {
			Manifests []descriptor `json:"manifests"`
		}
		read(filepath.Join(layout, "index.json"), &index)
		for _, m := range index.Manifests {
			if m.Annotations["org.opencontainers.image.ref.name"] == tag {
				digest = m.Digest
			}
		}
	}
	var manifest struct {
		Layers []descriptor `json:"layers"`
	}
	read(blob(digest), &manifest)
	if len(manifest.Layers) == 0 {
		t.Fatalf("no layers in %s of %s", tag, layout)
	}
	var layers []lazyblock.RangeReader
	for _, l := range manifest.Layers {
		layers = append(layers, openFile(t, blob(l.Digest)))
	}
	return layers
}

// export writes the device to a sparse file and returns its path.
func export(t testing.TB, d *Device) string {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "disk.img"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(d.Size()); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 4<<20)
	for off, n := range d.Data() {
		for n > 0 {
			part := buf[:min(n, int64(len(buf)))]
			if _, err := d.ReadRange(t.Context(), part, off); err != nil {
				t.Fatal(err)
			}
			if _, err := f.WriteAt(part, off); err != nil {
				t.Fatal(err)
			}
			off, n = off+int64(len(part)), n-int64(len(part))
		}
	}
	return f.Name()
}

// checkEveryBlock expands every block of every layer that is a ZFile and
// returns how many.
func checkEveryBlock(t testing.TB, d *Device) (blocks int) {
	t.Helper()
	for _, l := range d.layers {
		if l.z == nil {
			continue
		}
		dst := make([]byte, l.z.blockSize)
		for i := range l.z.index.blocks() {
			at := l.z.span(i, i)
			stored := make([]byte, at.len)
			if err := lazyblock.ReadFull(t.Context(), l.blob, stored, at.off); err != nil {
				t.Fatal(err)
			}
			if err := l.z.expand(dst[:l.z.length(i)], stored); err != nil {
				t.Fatalf("layer %d, block %d: %v", l.number, i, err)
			}
			blocks++
		}
	}
	return blocks
}

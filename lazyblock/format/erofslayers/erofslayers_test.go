package erofslayers_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/referee-cri/referee/internal/fsimage"
	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/lazyblock"
	"github.com/referee-cri/referee/lazyblock/format/erofslayers"
	"github.com/referee-cri/referee/lazyblock/format/formattest"
)

func form(suffix string, layers ...[]byte) lazyblock.Form {
	f := lazyblock.Form{ID: "volume"}
	for _, layer := range layers {
		f.Layers = append(f.Layers, lazyblock.FormBlob{RangeReader: lazyblock.InMemory(layer), Descriptor: ocispec.Descriptor{MediaType: erofslayers.MediaType + suffix}})
	}
	return f
}

// small makes a layer of a few files.
func small(t *testing.T, fill func(dir string) error, arguments ...string) []byte {
	t.Helper()
	dir := t.TempDir()
	if err := fill(dir); err != nil {
		t.Fatal(err)
	}
	return fsimage.EROFS(t, dir, arguments...)
}

func file(name, content string) func(string) error {
	return func(dir string) error { return os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600) }
}

func large(dir string) error { return file("large", strings.Repeat("the same again ", 20_000))(dir) }

func marked(attribute, value string) func(string) error {
	return func(dir string) error {
		path := filepath.Join(dir, "dir")
		return errors.Join(os.Mkdir(path, 0o755), unix.Setxattr(path, attribute, []byte(value), 0))
	}
}

func TestCompressedLayers(t *testing.T) {
	t.Parallel()
	inside := small(t, large, "-zlz4hc")
	plain := small(t, large)
	if len(inside) >= len(plain) {
		t.Fatalf("compressed to %d of %d bytes", len(inside), len(plain))
	}
	for name, tc := range map[string]struct {
		form lazyblock.Form
		code reason.Code
		says string
	}{
		"one, compressed within":             {form("", inside), reason.None, ""},
		"one of two compressed within":       {form("", plain, inside), reason.None, ""},
		"one, in zstd that can be sought":    {form("+zstd", fsimage.SeekableZstd(t, inside, 4096)), reason.None, ""},
		"two, in zstd that can be sought":    {form("+zstd", fsimage.SeekableZstd(t, plain, 65536), fsimage.SeekableZstd(t, plain, 10_000)), reason.None, ""},
		"one, in zstd that cannot be sought": {form("+zstd", plain), reason.NotAttachable, "seek table"},
		"two, in zstd that cannot be sought": {form("+zstd", plain, plain), reason.NotAttachable, "seek table"},
		"gzip":                               {form("+gzip", plain), reason.NotAttachable, "gzip"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v, err := erofslayers.Open(t.Context(), tc.form, nil)
			if reason.Of(err) != tc.code || !strings.Contains(fmt.Sprint(err), tc.says) {
				t.Fatalf("error %v (%s), want %s that says %q", err, reason.Of(err), tc.code, tc.says)
			}
			if err != nil {
				return
			}
			got, err := os.ReadFile(filepath.Join(formattest.Mount(t, v), "large"))
			if err != nil || string(got) != strings.Repeat("the same again ", 20_000) {
				t.Errorf("%d wrong bytes, %v", len(got), err)
			}
			if err := v.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestTarBehindItsIndex mounts and merges images whose data is on an extra device
// that lies behind them in the same blob.
func TestTarBehindItsIndex(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	other := filepath.Join(t.TempDir(), "blob")
	if err := large(dir); err != nil {
		t.Fatal(err)
	}
	index := fsimage.EROFS(t, dir, "--chunksize=4096", "--blobdev="+other)
	data, err := os.ReadFile(other)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := erofslayers.Open(t.Context(), form("", index), nil); reason.Of(err) != reason.NotAttachable || !strings.Contains(fmt.Sprint(err), "extra device 1") {
		t.Errorf("data that is elsewhere: %v", err)
	}
	const super = 1024
	slot := int(binary.LittleEndian.Uint16(index[super+88:])) * 128
	binary.LittleEndian.PutUint32(index[super+8:], 0) // the checksum is not to be looked at
	binary.LittleEndian.PutUint32(index[slot+64:], uint32(len(data)/4096))
	binary.LittleEndian.PutUint32(index[slot+68:], uint32(len(index)/4096))
	whole := slices.Concat(index, data)
	for name, layers := range map[string][][]byte{"one": {whole}, "merged": {small(t, file("below", "x")), whole}} {
		v, err := erofslayers.Open(t.Context(), form("", layers...), nil)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		got, err := os.ReadFile(filepath.Join(formattest.Mount(t, v), "large"))
		if err != nil || string(got) != strings.Repeat("the same again ", 20_000) {
			t.Errorf("%s: %d wrong bytes, %v", name, len(got), err)
		}
	}
}

func TestWhatCannotBeMergedIsRefused(t *testing.T) {
	t.Parallel()
	plain := small(t, file("a", "b"))
	broken := bytes.Clone(plain)
	broken[1024]++
	cut := plain[:len(plain)/4096*4096-4096]
	for name, tc := range map[string]struct {
		form lazyblock.Form
		code reason.Code
		says string
	}{
		"no layer":             {lazyblock.Form{}, reason.ArtifactInvalid, "0 layers"},
		"another media type":   {lazyblock.Form{Layers: make([]lazyblock.FormBlob, 2)}, reason.ArtifactInvalid, "layer"},
		"no EROFS":             {form("", broken), reason.FormatCorrupt, "superblock"},
		"no EROFS above":       {form("", plain, broken), reason.FormatCorrupt, "layer 1"},
		"cut":                  {form("", plain, cut), reason.FormatCorrupt, "layer 1"},
		"a name of a tar":      {form("", plain, small(t, file(".wh.a", ""))), reason.NotAttachable, ".wh.a"},
		"a directory redirect": {form("", plain, small(t, marked("trusted.overlay.redirect", "/a"))), reason.NotAttachable, "redirect"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := erofslayers.Open(t.Context(), tc.form, nil)
			if reason.Of(err) != tc.code || !strings.Contains(fmt.Sprint(err), tc.says) {
				t.Errorf("error %v (%s), want %s that says %q", err, reason.Of(err), tc.code, tc.says)
			}
		})
	}
}

// TestSameLayersSameDisk: a restarted daemon must serve the very bytes that the
// kernel has mounted.
func TestSameLayersSameDisk(t *testing.T) {
	t.Parallel()
	lower, upper := small(t, large), small(t, marked("user.x", "y"))
	var disks [2][]byte
	for i := range disks {
		v, err := erofslayers.Open(t.Context(), form("", lower, upper), nil)
		if err != nil {
			t.Fatal(err)
		}
		disks[i] = make([]byte, v.Primary.Size())
		if _, err := v.Primary.ReadRange(t.Context(), disks[i], 0); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(disks[0], disks[1]) {
		t.Error("two openings give two disks")
	}
}

func FuzzOpen(f *testing.F) {
	if os.Geteuid() == 0 {
		dir := f.TempDir()
		if err := errors.Join(file("a", "b")(dir), marked("trusted.overlay.opaque", "y")(dir)); err != nil {
			f.Fatal(err)
		}
		image := fsimage.EROFS(f, dir)
		binary.LittleEndian.PutUint32(image[1024+8:], 0)
		f.Add(image, image)
	}
	f.Fuzz(func(t *testing.T, lower, upper []byte) {
		v, err := erofslayers.Open(t.Context(), form("", lower, upper), nil)
		if err != nil {
			return
		}
		p := make([]byte, min(v.Primary.Size(), 1<<20))
		if _, err := v.Primary.ReadRange(t.Context(), p, 0); err != nil && reason.Of(err) != reason.FormatCorrupt {
			t.Errorf("what was opened cannot be read: %v", err)
		}
	})
}

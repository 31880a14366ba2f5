// Package fsimage makes file-system images of a reference image's layers, with
// stock programs, for tests of formats that hold such images.
//
// It is test support. It unpacks with containerd's own code and mounts overlayfs
// for as long as a test runs.
package fsimage

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	seekable "github.com/SaveTheRbtz/zstd-seekable-format-go/pkg"
	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"github.com/referee-cri/referee/internal/layerstream"
	"github.com/referee-cri/referee/internal/testdata"
)

// Unpack unpacks the layers of the image tagged tag of an OCI layout, each into an
// upper directory of overlayfs: whiteouts are devices and attributes. It returns
// the directories, bottom first. It needs root.
func Unpack(t testing.TB, layout, tag string) []string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("unpacking layers needs root")
	}
	root := t.TempDir()
	var uppers []string // top first, as the options of overlayfs have it
	for n, layer := range Tars(t, layout, tag) {
		upper := filepath.Join(root, fmt.Sprint(n))
		if err := os.Mkdir(upper, 0o755); err != nil {
			t.Fatal(err)
		}
		unpack(t, layer, upper, uppers)
		uppers = append([]string{upper}, uppers...)
	}
	slices.Reverse(uppers)
	return uppers
}

func unpack(t testing.TB, layer []byte, upper string, lowers []string) {
	t.Helper()
	opts := []archive.ApplyOpt{archive.WithConvertWhiteout(archive.OverlayConvertWhiteout)}
	if len(lowers) > 0 {
		opts = append(opts, archive.WithParents(lowers))
	}
	if _, err := archive.Apply(t.Context(), upper, bytes.NewReader(layer), opts...); err != nil {
		t.Fatal(err)
	}
}

// Merge shows unpacked layers as one directory, until the test ends. Whiteouts that
// hide nothing go: overlayfs lists them although there is nothing to stat.
func Merge(t testing.TB, uppers []string) string {
	t.Helper()
	for i, upper := range uppers {
		dropIdle(t, upper, uppers[:i])
	}
	lowers := slices.Clone(uppers)
	slices.Reverse(lowers)
	dir := t.TempDir()
	if err := unix.Mount("overlay", dir, "overlay", unix.MS_RDONLY, "lowerdir="+strings.Join(append(lowers, t.TempDir()), ":")); err != nil {
		t.Fatalf("mount overlay: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	return dir
}

// dropIdle removes the whiteouts of upper that hide nothing in lowers.
func dropIdle(t testing.TB, upper string, lowers []string) {
	t.Helper()
	err := filepath.WalkDir(upper, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Type() != fs.ModeDevice|fs.ModeCharDevice {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil || st.Rdev != 0 {
			return err
		}
		hides := slices.ContainsFunc(lowers, func(lower string) bool {
			_, err := os.Lstat(filepath.Join(lower, strings.TrimPrefix(path, upper)))
			return err == nil
		})
		if hides {
			return nil
		}
		return remove(path)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// LongestName is what mkfs.erofs of release 1.5 can hold, in bytes: it cuts names
// by one and then finds no such file.
const LongestName = 254

// DropLongNames removes files whose names are too long for mkfs.erofs.
func DropLongNames(t testing.TB, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || len(d.Name()) <= LongestName {
			return err
		}
		return remove(path)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// remove removes a file and leaves its directory the time that it had.
func remove(path string) error {
	dir := filepath.Dir(path)
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	return errors.Join(os.Remove(path), os.Chtimes(dir, time.Time{}, info.ModTime()))
}

// EROFS makes an EROFS image of dir with mkfs.erofs. Equal directories give equal
// images: a test that damages them damages the same thing each time.
func EROFS(t testing.TB, dir string, arguments ...string) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image")
	const (
		uuid  = "-U5ef1a4c2-0f5c-4c36-9e1c-0c6f2f1d7a11"
		built = "SOURCE_DATE_EPOCH=4102444800" // in 2100: the time of no file is later
	)
	cmd := exec.CommandContext(t.Context(), "mkfs.erofs", slices.Concat([]string{uuid}, arguments, []string{path, dir})...)
	cmd.Env = append(os.Environ(), built)
	return made(t, path, cmd)
}

// Ext4 makes an ext4 disk of dir with mkfs.ext4.
func Ext4(t testing.TB, dir, size string) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image")
	return program(t, path, "mkfs.ext4", "-q", "-b", "4096", "-O", "^has_journal", "-d", dir, path, size)
}

// DynamicVHD wraps a disk with qemu-img.
func DynamicVHD(t testing.TB, disk []byte) []byte {
	t.Helper()
	dir := t.TempDir()
	raw, vhd := filepath.Join(dir, "raw"), filepath.Join(dir, "vhd")
	if err := os.WriteFile(raw, disk, 0o600); err != nil {
		t.Fatal(err)
	}
	return program(t, vhd, "qemu-img", "convert", "-f", "raw", "-O", "vpc", "-o", "force_size=on,subformat=dynamic", raw, vhd)
}

// program runs a program and returns the file that it makes.
func program(t testing.TB, makes, name string, arguments ...string) []byte {
	t.Helper()
	return made(t, makes, exec.CommandContext(t.Context(), name, arguments...))
}

func made(t testing.TB, path string, cmd *exec.Cmd) []byte {
	t.Helper()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", cmd, err, out)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// SeekableZstd compresses content in frames of the given length, with a table of
// them at the end.
func SeekableZstd(t testing.TB, content []byte, frame int) []byte {
	t.Helper()
	encoder, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	w, err := seekable.NewWriter(&out, encoder)
	if err != nil {
		t.Fatal(err)
	}
	for part := range slices.Chunk(content, frame) {
		if _, err := w.Write(part); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// Tars returns the layers of the image tagged tag of an OCI layout, decompressed,
// bottom first.
func Tars(t testing.TB, layout, tag string) [][]byte {
	t.Helper()
	var tars [][]byte
	for _, layer := range testdata.ReadImage(t, layout, tag).Manifest.Layers {
		tars = append(tars, readLayer(t, testdata.Blob(layout, layer.Digest)))
	}
	return tars
}

func readLayer(t testing.TB, path string) []byte {
	t.Helper()
	layer, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return Decompress(t, layer)
}

// Decompress returns the tar that a layer is, compressed or not.
func Decompress(t testing.TB, layer []byte) []byte {
	t.Helper()
	stream, err := layerstream.Decompress(bytes.NewReader(layer))
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	content, err := io.ReadAll(stream)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// Tar makes a tar of regular files by name, sorted, of root's.
func Tar(t testing.TB, files map[string][]byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(files[name]))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(files[name]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

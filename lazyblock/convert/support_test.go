package convert

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
	"oras.land/oras-go/v2/content"

	"github.com/referee-cri/referee/internal/treecmp"
	"github.com/referee-cri/referee/lazyblock"
	"github.com/referee-cri/referee/lazyblock/convert/source"
	"github.com/referee-cri/referee/lazyblock/erofs"
	"github.com/referee-cri/referee/lazyblock/format/overlaybd"
)

// needRoot skips tests that mount.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
}

// mountFile mounts an EROFS image by mount(2), without a loop device.
func mountFile(t testing.TB, image string) string {
	t.Helper()
	needRoot(t)
	dir := t.TempDir()
	err := unix.Mount(image, dir, "erofs", unix.MS_RDONLY, "")
	if err == unix.ENOTBLK {
		t.Skip("mounting EROFS from a file needs Linux 6.12")
	}
	if err != nil {
		t.Fatalf("mount %s: %v", image, err)
	}
	t.Cleanup(func() { unmount(t, dir) })
	return dir
}

// mountLoop mounts an EROFS image through a loop device, as older kernels need it.
func mountLoop(t testing.TB, image string) string {
	t.Helper()
	needRoot(t)
	dir := t.TempDir()
	if out, err := exec.CommandContext(t.Context(), "mount", "-t", "erofs", "-o", "loop,ro", image, dir).CombinedOutput(); err != nil {
		t.Fatalf("mount -o loop %s: %v: %s", image, err, out)
	}
	t.Cleanup(func() { unmount(t, dir) })
	return dir
}

// unmount waits for what a process forked meanwhile still holds open until it execs.
func unmount(t testing.TB, dir string) {
	err := unix.Unmount(dir, 0)
	for deadline := time.Now().Add(10 * time.Second); err == unix.EBUSY && time.Now().Before(deadline); err = unix.Unmount(dir, 0) {
		runtime.Gosched()
	}
	if err != nil {
		t.Errorf("unmount %s: %v", dir, err)
		_ = unix.Unmount(dir, unix.MNT_DETACH)
	}
}

// fsck runs the checker of erofs-utils over an image.
func fsck(t testing.TB, image string) {
	t.Helper()
	tool, err := exec.LookPath("fsck.erofs")
	if err != nil {
		t.Log("not checked: no fsck.erofs here")
		return
	}
	if out, err := exec.CommandContext(t.Context(), tool, "--extract", image).CombinedOutput(); err != nil {
		t.Errorf("fsck.erofs %s: %v: %s", image, err, out)
	}
}

// expectTree lists what is mounted at dir and compares it in full.
func expectTree(t testing.TB, want treecmp.Tree, dir string, ignores ...treecmp.Ignore) {
	t.Helper()
	got, err := treecmp.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) < 2 && len(want) > 1 {
		t.Fatalf("the mounted tree is empty, want %d paths", len(want))
	}
	for _, d := range treecmp.Diff(want, got, ignores...) {
		t.Error(d)
	}
}

// imageFrom reads and converts an image.
func imageFrom(ctx context.Context, fetcher content.Fetcher, desc ocispec.Descriptor, opts Options) (*Result, error) {
	image, err := source.Read(ctx, fetcher, desc)
	if err != nil {
		return nil, err
	}
	return Image(ctx, image, opts)
}

// trustAll is for layers that nobody claimed a digest for.
func trustAll() error { return nil }

// writeDisk puts layers on a disk in one sparse file and returns its path; with
// every set, also a copy of each prefix.
func writeDisk(t testing.TB, layers ...[]byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	d := newDisk(erofs.Limits{})
	for i, layer := range layers {
		if err := d.addLayer(t.Context(), bytes.NewReader(layer), trustAll, f, virtualSize, [16]byte{1}); err != nil {
			t.Fatalf("layer %d: %v", i, err)
		}
	}
	if err := f.Truncate(int64(d.end) << blockBits); err != nil {
		t.Fatal(err)
	}
	return path
}

// blobReader serves a converted layer from its file.
type blobReader struct {
	*os.File
	size int64
}

func (b blobReader) ReadRange(_ context.Context, p []byte, off int64) (int, error) {
	return b.ReadAt(p, off)
}
func (b blobReader) Size() int64 { return b.size }

// mergedDisk opens converted layers as one device and copies what it maps to a
// sparse file.
func mergedDisk(t testing.TB, layers []Layer) string {
	t.Helper()
	blobs := make([]lazyblock.RangeReader, len(layers))
	for i, layer := range layers {
		f, err := os.Open(layer.Path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		blobs[i] = blobReader{f, layer.Descriptor.Size}
	}
	device, err := overlaybd.Open(t.Context(), blobs, "test")
	if err != nil {
		t.Fatal(err)
	}
	defer device.Close()
	path := filepath.Join(t.TempDir(), "merged")
	out, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	for off, length := range device.Data() {
		buf := make([]byte, length)
		if _, err := device.ReadRange(t.Context(), buf, off); err != nil {
			t.Fatal(err)
		}
		if _, err := out.WriteAt(buf, off); err != nil {
			t.Fatal(err)
		}
	}
	if err := out.Truncate(device.Size()); err != nil {
		t.Fatal(err)
	}
	return path
}

// gnuTar packs a directory's content with the tar of this machine.
func gnuTar(t testing.TB, dir string, options ...string) []byte {
	t.Helper()
	tool, err := exec.LookPath("tar")
	if err != nil {
		t.Skip("no tar here")
	}
	var b, complaints bytes.Buffer
	cmd := exec.CommandContext(t.Context(), tool, append(options, "-C", dir, "-cf", "-", ".")...)
	cmd.Stdout, cmd.Stderr = &b, &complaints
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v: %v: %s", cmd, err, &complaints)
	}
	return b.Bytes()
}

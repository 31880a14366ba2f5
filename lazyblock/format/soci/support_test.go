package soci

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/referee-cri/referee/internal/testdata"
	"github.com/referee-cri/referee/internal/treecmp"
	"github.com/referee-cri/referee/lazyblock"
)

// Digests of the reference data: the image, and its SOCI indexes.
const (
	imageManifest = "sha256:07dd292726603f52d87bd8ab9a856f6b98b9abef5eea6be23a1b4a4757e40063"
	indexV1       = "sha256:f42a025426f424369d9769d2037a82c7e9060e66fcecfcaecb694974d5e232cd"
	indexV2       = "sha256:13f08019f2524bedc562cc5c4cf73335648c8316863f871b0f0ac6c315f292fc"
)

// blobOf is a blob of a form with these bytes.
func blobOf(data []byte, annotations map[string]string) lazyblock.FormBlob {
	return lazyblock.FormBlob{
		RangeReader: lazyblock.InMemory(data),
		Descriptor:  ocispec.Descriptor{Digest: digest.FromBytes(data), Size: int64(len(data)), Annotations: annotations},
	}
}

// layoutBlobs are the layers of a manifest of the reference data.
func layoutBlobs(t testing.TB, manifest string) []lazyblock.FormBlob {
	t.Helper()
	dir := filepath.Join(testdata.Dir(t, "reference"), "tiny", "blobs", "sha256")
	read := func(d digest.Digest) []byte {
		data, err := os.ReadFile(filepath.Join(dir, d.Encoded()))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(read(digest.Digest(manifest)), &m); err != nil {
		t.Fatal(err)
	}
	blobs := make([]lazyblock.FormBlob, len(m.Layers))
	for i, d := range m.Layers {
		blobs[i] = lazyblock.FormBlob{RangeReader: lazyblock.InMemory(read(d.Digest)), Descriptor: d}
	}
	return blobs
}

// reference is the reference image with its tables.
func reference(t testing.TB) lazyblock.Form {
	t.Helper()
	return lazyblock.Form{ID: "test", Layers: layoutBlobs(t, imageManifest), Tables: layoutBlobs(t, indexV1)}
}

// open opens a form whose volume is closed when the test ends.
func open(t testing.TB, form lazyblock.Form) lazyblock.Volume {
	t.Helper()
	v, err := Open(t.Context(), form, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { v.Close() })
	return v
}

// dump reads all of a device.
func dump(t testing.TB, d lazyblock.Device) []byte {
	t.Helper()
	data := make([]byte, d.Size())
	if n, err := d.ReadRange(t.Context(), data, 0); n < len(data) {
		t.Fatal(err)
	}
	return data
}

// tree mounts a volume and lists what the kernel shows.
func tree(t testing.TB, v lazyblock.Volume) treecmp.Tree {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	image, dir := filepath.Join(t.TempDir(), "image"), t.TempDir()
	if err := os.WriteFile(image, dump(t, v.Primary), 0o600); err != nil {
		t.Fatal(err)
	}
	err := unix.Mount(image, dir, v.FSType, unix.MS_RDONLY, "")
	if errors.Is(err, unix.ENOTBLK) {
		t.Skip("mounting EROFS from a file needs Linux 6.12")
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}()
	listed, err := treecmp.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	return listed
}

// recorded is the tree that containerd made of the first n of the reference's layers.
func recorded(t testing.TB, name string) treecmp.Tree {
	t.Helper()
	want, err := treecmp.Load(filepath.Join(testdata.Dir(t, "reference"), name))
	if err != nil {
		t.Fatal(err)
	}
	return want
}

// countsWhiteout is where the recording differs from every layer's tar.
var countsWhiteout = treecmp.Ignore{Path: "/wh/link-a", Field: treecmp.FieldNlink, Why: "the recording overlayfs still counts a whited-out name"}

func expectTree(t testing.TB, want, got treecmp.Tree) {
	t.Helper()
	for _, d := range treecmp.Diff(want, got, countsWhiteout) {
		t.Error(d)
	}
}

package overlaybd

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/referee-cri/referee/internal/testdata"
	"github.com/referee-cri/referee/internal/treecmp"
	"github.com/referee-cri/referee/lazyblock"
)

// mountTree lists the image as the kernel shows it.
func mountTree(t *testing.T, image string) treecmp.Tree {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("mounting needs root")
	}
	dir := t.TempDir()
	// noload: the journal of no image may be replayed onto it.
	if out, err := exec.CommandContext(t.Context(), "mount", "-t", "ext4", "-o", "ro,loop,noload", image, dir).CombinedOutput(); err != nil {
		t.Fatalf("mount: %v: %s", err, out)
	}
	defer func() {
		// The loop device goes with the mount.
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil { //nolint:noctx // must run whatever became of the test
			t.Errorf("umount: %v: %s", err, out)
		}
	}()
	tree, err := treecmp.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// dumpTree lists the image as e2fsprogs' own reader shows it, without the kernel.
func dumpTree(t *testing.T, image string) treecmp.Tree {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), tool(t, "debugfs"), "-R", "rdump / "+dir, image)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("debugfs: %v: %s", err, out)
	}
	tree, err := treecmp.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

func tarTree(t *testing.T, paths ...string) treecmp.Tree {
	t.Helper()
	layers := make([]io.Reader, 0, len(paths))
	for _, path := range paths {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		layers = append(layers, f)
	}
	tree, err := treecmp.FromLayers(layers...)
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

func expectTree(t *testing.T, want, got treecmp.Tree, ignores ...treecmp.Ignore) {
	t.Helper()
	if len(want) < 2 {
		t.Fatalf("expected tree has %d entries", len(want))
	}
	for _, d := range treecmp.Diff(want, got, ignores...) {
		t.Error(d)
	}
}

// What stock's converter does to every tree (reference README; spec 8.3).
func writerDiffers() []treecmp.Ignore {
	return []treecmp.Ignore{
		{Path: "/lost+found", Why: "mkfs makes it"},
	}
}

// What debugfs rdump does not bring along.
func dumpDiffers() []treecmp.Ignore {
	return []treecmp.Ignore{
		{Path: "/lost+found", Why: "mkfs makes it"},
		{Field: treecmp.FieldUID, Why: "rdump leaves owners to the user"},
		{Field: treecmp.FieldGID, Why: "rdump leaves owners to the user"},
		{Field: treecmp.FieldMtime, Why: "of directories: made while dumping"},
		{Field: treecmp.FieldNsec, Why: "of directories: made while dumping"},
		{Field: treecmp.FieldXattrs, Why: "rdump drops them"},
		{Field: treecmp.FieldHardlinks, Why: "rdump copies each name"},
		{Field: treecmp.FieldNlink, Why: "rdump copies each name"},
		{Path: "/nasty/special/**", Field: treecmp.FieldPresence, Why: "rdump makes no devices and pipes"},
		{Path: "/replace/file-to-fifo", Why: "rdump makes no devices and pipes"},
		{Path: "/nasty/modes/**", Field: treecmp.FieldMode, Why: "rdump drops setuid, setgid and sticky"},
		{Path: "/tmp", Field: treecmp.FieldMode, Why: "rdump drops setuid, setgid and sticky"},
	}
}

// What stock made of the tars of native3, beyond writerDiffers.
func native3Differs() []treecmp.Ignore {
	return append([]treecmp.Ignore{
		{Path: "/etc/conf", Field: treecmp.FieldMtime, Why: "the writer gives the inode the time that the header of its hard link has"},
		{Path: "/etc/hard", Field: treecmp.FieldMtime, Why: "a name of that inode"},
	}, writerDiffers()...)
}

// What later layers do to directories that they change without naming them.
func touchedDiffers() []treecmp.Ignore {
	return append([]treecmp.Ignore{
		{Path: "/etc", Field: treecmp.FieldMtime, Why: "the third layer removes a file from it: time of conversion"},
		{Path: "/dev0", Field: treecmp.FieldMtime, Why: "the third layer makes it opaque: time of conversion"},
	}, native3Differs()...)
}

func TestStockStackIsTheMergeOfItsTars(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(testdata.Dir(t, "overlaybd"), "generated-by-stock/native3")
	in := func(name string) string { return filepath.Join(dir, name) }
	d := openDevice(t, openFile(t, in("n1.lz4")), openFile(t, in("n2.lz4")), openFile(t, in("n3.lz4")))
	checkEveryBlock(t, d)
	tars := []string{in("layer.tar"), in("l2.tar"), in("l3.tar")}
	for n := 1; n <= 3; n++ {
		t.Run(fmt.Sprintf("prefix %d", n), func(t *testing.T) {
			t.Parallel()
			prefix, err := d.Prefix(n, t.Name())
			if err != nil {
				t.Fatal(err)
			}
			differs := map[int][]treecmp.Ignore{1: writerDiffers(), 2: native3Differs(), 3: touchedDiffers()}[n]
			expectTree(t, tarTree(t, tars[:n]...), mountTree(t, export(t, prefix)), differs...)
		})
	}
}

func TestLayersOfAnyBlockSizeHoldTheirTar(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(testdata.Dir(t, "overlaybd"), "generated-by-stock")
	for _, name := range []string{"z4.zstd", "z32.zstd", "z64.zstd", "l16.lz4", "l64.lz4"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := openDevice(t, openFile(t, filepath.Join(dir, "zstd", name)))
			if checkEveryBlock(t, d) == 0 {
				t.Error("no blocks")
			}
			expectTree(t, tarTree(t, filepath.Join(dir, "native3/l2.tar")), mountTree(t, export(t, d)), native3Differs()...)
		})
	}
}

func TestTinyIsTheRecordedTree(t *testing.T) {
	t.Parallel()
	dir := testdata.Dir(t, "reference")
	differs := append([]treecmp.Ignore{
		{Path: "/nasty/owners/3000000-3000001", Field: treecmp.FieldUID, Why: "the writer ignores PAX uid"},
		{Path: "/nasty/owners/3000000-3000001", Field: treecmp.FieldGID, Why: "the writer ignores PAX gid"},
		{Path: "/nasty/time/year-2040", Field: treecmp.FieldMtime, Why: "the writer's times wrap in 2038"},
		{Path: "/nasty/time/year-2040-nsec", Field: treecmp.FieldMtime, Why: "the writer's times wrap in 2038"},
		{Path: "/nasty/time/dir-nsec", Field: treecmp.FieldNsec, Why: "the writer drops nanoseconds"},
		{Path: "/nasty/time/nsec", Field: treecmp.FieldNsec, Why: "the writer drops nanoseconds"},
		{Path: "/nasty/time/nsec-1", Field: treecmp.FieldNsec, Why: "the writer drops nanoseconds"},
		{Path: "/nasty/time/symlink-nsec", Field: treecmp.FieldNsec, Why: "the writer drops nanoseconds"},
		{Path: "/nasty/time/tenth", Field: treecmp.FieldNsec, Why: "the writer drops nanoseconds"},
		{Path: "/nasty/time/year-2040-nsec", Field: treecmp.FieldNsec, Why: "the writer drops nanoseconds"},
		{Path: "/nasty/xattr/trusted", Field: treecmp.FieldXattrs, Why: "the writer keeps trusted.lab, the recording unpacker dropped it"},
		{Path: "/wh/link-a", Field: treecmp.FieldNlink, Why: "recorded on overlayfs, which counts a whited-out name"},
	}, writerDiffers()...)
	for _, tag := range []string{"tiny-overlaybd-lz4", "tiny-overlaybd-zstd"} {
		layers := layoutLayers(t, filepath.Join(dir, "tiny"), tag)
		d := openDevice(t, layers...)
		for n := 1; n <= len(layers); n++ {
			t.Run(fmt.Sprintf("%s prefix %d", tag, n), func(t *testing.T) {
				t.Parallel()
				recorded := "tiny.tree.jsonl"
				if n < len(layers) {
					recorded = fmt.Sprintf("tiny.prefix%d.tree.jsonl", n)
				}
				want, err := treecmp.Load(filepath.Join(dir, recorded))
				if err != nil {
					t.Fatal(err)
				}
				prefix, err := d.Prefix(n, t.Name())
				if err != nil {
					t.Fatal(err)
				}
				image := export(t, prefix)
				if n == len(layers) {
					expectTree(t, want, dumpTree(t, image), slices.Concat(differs, dumpDiffers())...)
				}
				expectTree(t, want, mountTree(t, image), differs...)
			})
		}
	}
}

func TestFSTypeSaysWhatItFound(t *testing.T) {
	t.Parallel()
	if fsType, err := lazyblock.FSType(t.Context(), bytesReader(make([]byte, 4096))); err == nil {
		t.Errorf("zeros are %q", fsType)
	}
	if fsType, err := lazyblock.FSType(t.Context(), bytesReader(make([]byte, 1100))); err == nil {
		t.Errorf("a short device is %q", fsType)
	}
	erofs := make([]byte, 4096)
	copy(erofs[1024:], "\xe2\xe1\xf5\xe0")
	if fsType, err := lazyblock.FSType(t.Context(), bytesReader(erofs)); fsType != "erofs" || err != nil {
		t.Errorf("EROFS is %q, %v", fsType, err)
	}
}

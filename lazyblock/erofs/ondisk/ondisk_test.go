package ondisk_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/internal/treecmp"
	"github.com/referee-cri/referee/lazyblock"
	"github.com/referee-cri/referee/lazyblock/erofs"
	"github.com/referee-cri/referee/lazyblock/erofs/ondisk"
)

// manyThings fills dir with every type of file.
func manyThings(t testing.TB, dir string) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	random := rand.New(rand.NewPCG(1, 2))
	content := make([]byte, 300_000)
	for i := range content {
		content[i] = byte(random.Uint32())
	}
	for _, size := range []int{0, 1, 511, 4095, 4096, 4097, 8192, 65536, 300_000} {
		must(os.WriteFile(filepath.Join(dir, fmt.Sprint("file", size)), content[:size], 0o640))
	}
	sparse := append(bytes.Clone(content[:5000]), make([]byte, 3<<16)...)
	must(os.WriteFile(filepath.Join(dir, "sparse"), append(sparse, content[:77]...), 0o4755))
	must(os.MkdirAll(filepath.Join(dir, "many"), 0o1777))
	for i := range 900 {
		must(os.WriteFile(filepath.Join(dir, "many", fmt.Sprintf("%0*d", 3+i%200, i)), []byte(fmt.Sprint(i)), 0o600))
	}
	must(os.MkdirAll(filepath.Join(dir, strings.Repeat("deep/", 40)), 0o755))
	must(os.Link(filepath.Join(dir, "file4097"), filepath.Join(dir, "many", "another")))
	must(os.Symlink("file1", filepath.Join(dir, "link")))
	must(os.Symlink(strings.Repeat("long/", 700), filepath.Join(dir, "longlink")))
	must(unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600))
	must(unix.Mknod(filepath.Join(dir, "char"), unix.S_IFCHR|0o600, int(unix.Mkdev(4000, 300_000))))
	must(unix.Mknod(filepath.Join(dir, "block"), unix.S_IFBLK|0o600, int(unix.Mkdev(8, 1))))
	must(unix.Mknod(filepath.Join(dir, "socket"), unix.S_IFSOCK|0o600, 0))
	must(os.Lchown(filepath.Join(dir, "file511"), 3_000_000, 70_000))
	for name, value := range map[string]string{"user.lab": "x", "user.long": strings.Repeat("v", 1500), "security.capability": "\x01\x00\x00\x02\x00\x04" + strings.Repeat("\x00", 14)} {
		must(unix.Setxattr(filepath.Join(dir, "file1"), name, []byte(value), 0))
		must(unix.Setxattr(filepath.Join(dir, "file4096"), name, []byte(value), 0))
		must(unix.Setxattr(filepath.Join(dir, "deep"), name, []byte(value), 0))
		must(unix.Setxattr(filepath.Join(dir, "sparse"), name, []byte(value), 0))
	}
	must(os.Chtimes(filepath.Join(dir, "file1"), time.Time{}, time.Unix(-5, 0)))
	must(os.Chtimes(filepath.Join(dir, "file0"), time.Time{}, time.Unix(2_208_988_800, 5)))
}

// mkfs makes an image of dir, or of many things where dir is empty. BLOB in the
// arguments stands for the file of a second device.
func mkfs(t testing.TB, dir string, arguments ...string) (image, second lazyblock.InMemory) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("owners, devices and mounts need root")
	}
	if dir == "" {
		dir = t.TempDir()
		manyThings(t, dir)
	}
	out := t.TempDir()
	for i, argument := range arguments {
		arguments[i] = strings.ReplaceAll(argument, "BLOB", filepath.Join(out, "blob"))
	}
	arguments = append(arguments, filepath.Join(out, "image"), dir)
	if text, err := exec.CommandContext(t.Context(), "mkfs.erofs", arguments...).CombinedOutput(); err != nil {
		t.Fatalf("mkfs.erofs: %v: %s", err, text)
	}
	image, err := os.ReadFile(filepath.Join(out, "image"))
	if err != nil {
		t.Fatal(err)
	}
	if second, err = os.ReadFile(filepath.Join(out, "blob")); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return image, second
}

// walkTree lists an image as treecmp.List lists a mount of it.
func walkTree(t *testing.T, image *ondisk.Image, devices ...lazyblock.InMemory) treecmp.Tree {
	t.Helper()
	tree := treecmp.Tree{}
	names := map[uint64][]string{}
	types := map[uint32]string{
		erofs.TypeRegular: treecmp.File, erofs.TypeDir: treecmp.Dir, erofs.TypeSymlink: treecmp.Symlink, erofs.TypeFIFO: treecmp.Fifo,
		erofs.TypeChar: treecmp.Char, erofs.TypeBlock: treecmp.Block, erofs.TypeSocket: treecmp.Socket,
	}
	err := image.Walk(t.Context(), func(name string, f *ondisk.File) error {
		in := &f.Inode
		e := treecmp.Entry{
			Path: name, Type: types[in.Type()], Mode: in.Mode & 0o7777, UID: in.UID, GID: in.GID, Target: in.Target,
			RdevMajor: in.Major, RdevMinor: in.Minor, Size: in.Size + int64(len(in.Target)),
		}
		if name != "/" {
			e.Mtime = time.Unix(in.Mtime, int64(in.Nsec)).UTC()
		}
		if !in.IsDir() {
			e.Nlink = int(f.Links)
			names[f.NID] = append(names[f.NID], name)
		}
		for _, x := range in.Xattrs {
			if e.Xattrs == nil {
				e.Xattrs = map[string]string{}
			}
			e.Xattrs[x.Name] = x.Value
		}
		if in.Type() == erofs.TypeRegular {
			extents, err := image.Extents(t.Context(), f)
			if err != nil {
				return err
			}
			content := make([]byte, in.Size)
			for _, extent := range extents {
				copy(content[extent.At:][:extent.Length], devices[extent.Device][extent.Off:])
			}
			sum := sha256.Sum256(content)
			e.SHA256 = hex.EncodeToString(sum[:])
		}
		tree[name] = e
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, all := range names {
		for _, name := range all {
			if e := tree[name]; len(all) > 1 {
				slices.Sort(all)
				e.Hardlinks = all
				tree[name] = e
			}
		}
	}
	return tree
}

// mountTree lists what the kernel makes of an image.
func mountTree(t *testing.T, devices ...lazyblock.InMemory) treecmp.Tree {
	t.Helper()
	dir := t.TempDir()
	paths := make([]string, len(devices))
	options := ""
	for i, device := range devices {
		paths[i] = filepath.Join(dir, fmt.Sprint("device", i))
		if err := os.WriteFile(paths[i], device, 0o600); err != nil {
			t.Fatal(err)
		}
		if i > 0 {
			options += ",device=" + paths[i]
		}
	}
	target := t.TempDir()
	if err := unix.Mount(paths[0], target, "erofs", unix.MS_RDONLY, strings.TrimPrefix(options, ",")); err != nil {
		t.Fatalf("mount: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(target, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	tree, err := treecmp.List(target)
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

func TestWalkSeesWhatTheKernelSees(t *testing.T) {
	t.Parallel()
	for name, arguments := range map[string][]string{
		"inline tails":                   nil,
		"compact inodes":                 {"--all-root", "-Eforce-inode-compact", "--ignore-mtime", "-T1700000000"},
		"extended inodes, no inline":     {"-Eforce-inode-extended,noinline_data"},
		"no attributes":                  {"-x-1"},
		"attributes shared":              {"-x1"},
		"chunks with indexes":            {"-Eforce-chunk-indexes", "--chunksize=4096"},
		"chunks with block numbers":      {"-Eforce-inode-blockmap", "--chunksize=8192"},
		"chunks on another device":       {"--blobdev=BLOB", "--chunksize=65536"},
		"small chunks on another device": {"--blobdev=BLOB", "--chunksize=4096"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			devices := make([]lazyblock.InMemory, 2)
			devices[0], devices[1] = mkfs(t, "", arguments...)
			if devices[1] == nil {
				devices = devices[:1]
			}
			image, err := ondisk.Open(t.Context(), devices[0])
			if err != nil {
				t.Fatal(err)
			}
			got := walkTree(t, image, devices...)
			if len(got) < 950 {
				t.Errorf("only %d files", len(got))
			}
			for _, d := range treecmp.Diff(mountTree(t, devices...), got) {
				t.Error(d)
			}
		})
	}
}

func TestCompressedFilesAreToldApart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "large"), bytes.Repeat([]byte("same "), 100_000), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, arguments := range map[string][]string{"compacted": {"-zlz4hc"}, "full": {"-zlz4hc", "-Elegacy-compress"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			compressed, _ := mkfs(t, dir, arguments...)
			image, err := ondisk.Open(t.Context(), compressed)
			if err != nil {
				t.Fatal(err)
			}
			err = image.Walk(t.Context(), func(name string, f *ondisk.File) error {
				if name == "/large" != f.Compressed() {
					t.Errorf("%s: compressed %t", name, f.Compressed())
				}
				_, err := image.Extents(t.Context(), f)
				return err
			})
			if reason.Of(err) != reason.NotAttachable || !strings.Contains(fmt.Sprint(err), "compressed") {
				t.Errorf("error %v", err)
			}
		})
	}
}

// smallImage is written by this project: a directory, files on the image and on a device.
func smallImage(t testing.TB) lazyblock.InMemory {
	t.Helper()
	tree := erofs.NewTree(erofs.Limits{})
	layer := tree.NewLayer()
	for name, in := range map[string]erofs.Inode{
		"dir":   {Mode: erofs.TypeDir | 0o755, Mtime: 5, Xattrs: erofs.Xattrs{{Name: "user.a", Value: "value"}}},
		"dir/a": {Mode: erofs.TypeRegular | 0o644, Size: 100, Data: erofs.Extent{Block: 1}},
		"dir/b": {Mode: erofs.TypeRegular | 0o644, Size: 5000, Data: erofs.Extent{Device: 1, Block: 1}},
		"link":  {Mode: erofs.TypeSymlink, Target: "dir/a"},
	} {
		if err := layer.Add(name, in); err != nil {
			t.Fatal(err)
		}
	}
	if err := tree.Apply(layer); err != nil {
		t.Fatal(err)
	}
	layout, err := tree.Layout(erofs.LayoutOptions{Start: 2, Devices: []erofs.DeviceSlot{{Tag: "one", Blocks: 4}}})
	if err != nil {
		t.Fatal(err)
	}
	image := &growing{}
	if err := layout.Write(t.Context(), image); err != nil {
		t.Fatal(err)
	}
	return append(image.bytes, make([]byte, int(layout.End())<<12-len(image.bytes))...)
}

type growing struct{ bytes []byte }

func (g *growing) WriteAt(p []byte, off int64) (int, error) {
	if end := int(off) + len(p); end > len(g.bytes) {
		g.bytes = append(g.bytes, make([]byte, end-len(g.bytes))...)
	}
	return copy(g.bytes[off:], p), nil
}

func TestBrokenImagesAreRefused(t *testing.T) {
	t.Parallel()
	le := binary.LittleEndian
	const super, inodes = 1024, 2 << 12
	for name, tc := range map[string]struct {
		change func(b []byte) []byte
		code   reason.Code
		says   string
	}{
		"empty":                   {func([]byte) []byte { return nil }, reason.FormatCorrupt, "superblock"},
		"short":                   {func(b []byte) []byte { return b[:1100] }, reason.FormatCorrupt, "1100"},
		"no magic":                {func(b []byte) []byte { b[super]++; return b }, reason.FormatCorrupt, "begins"},
		"huge blocks":             {func(b []byte) []byte { b[super+12] = 31; return b }, reason.FormatCorrupt, "2^31"},
		"wrong checksum":          {func(b []byte) []byte { b[super+16]++; return b }, reason.FormatCorrupt, "CRC"},
		"unknown feature":         {func(b []byte) []byte { le.PutUint32(b[super+80:], 0x8c); return b }, reason.NotAttachable, "0x80"},
		"many devices":            {func(b []byte) []byte { le.PutUint16(b[super+86:], 0xFFFF); return b }, reason.FormatCorrupt, "65535"},
		"devices outside":         {func(b []byte) []byte { le.PutUint16(b[super+88:], 0xFFFF); return b }, reason.FormatCorrupt, "devices"},
		"root outside":            {func(b []byte) []byte { le.PutUint16(b[super+14:], 0xFFFF); return b }, reason.FormatCorrupt, "outside"},
		"metadata outside":        {func(b []byte) []byte { le.PutUint32(b[super+40:], 0xFFFFFFFF); return b }, reason.FormatCorrupt, "image of 12288"},
		"root is a link":          {func(b []byte) []byte { le.PutUint16(b[super+14:], linkNID(b)); return b }, reason.FormatCorrupt, "no directory"},
		"unknown inode format":    {func(b []byte) []byte { b[inodes+32] |= 0x10; return b }, reason.NotAttachable, "format"},
		"directory of a petabyte": {func(b []byte) []byte { le.PutUint32(b[inodes+32+8:], 0xFFFFFFF0); return b }, reason.FormatCorrupt, "directory of"},
		"directory beyond it":     {func(b []byte) []byte { le.PutUint32(b[inodes+32+8:], 1<<20); return b }, reason.FormatCorrupt, "bytes"},
		"attributes beyond it":    {func(b []byte) []byte { le.PutUint16(b[inodes+32+2:], 0xFFFF); return b }, reason.FormatCorrupt, "bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := smallImage(t)
			if name != "wrong checksum" {
				le.PutUint32(b[super+8:], 0) // no checksum, so that what is behind it is looked at
			}
			err := walk(t.Context(), tc.change(b))
			if reason.Of(err) != tc.code || !strings.Contains(fmt.Sprint(err), tc.says) {
				t.Errorf("error %v (%s), want %s that says %q", err, reason.Of(err), tc.code, tc.says)
			}
		})
	}
}

// linkNID is the number of the symbolic link's inode: the last one.
func linkNID(b []byte) uint16 {
	for nid := uint16(200); nid > 0; nid-- {
		if at := 2<<12 + int(nid)*32; at+8 < len(b) && binary.LittleEndian.Uint16(b[at+4:]) == 0o120777 {
			return nid
		}
	}
	return 0
}

// walk reads all that can be read of an image.
func walk(ctx context.Context, b lazyblock.InMemory) error {
	image, err := ondisk.Open(ctx, b)
	if err != nil {
		return err
	}
	if err := image.Warm(ctx); err != nil {
		return err
	}
	return image.Walk(ctx, func(_ string, f *ondisk.File) error {
		if f.Inode.Type() != erofs.TypeRegular {
			return nil
		}
		if f.Compressed() {
			clusters, err := image.Clusters(ctx, f)
			end := int64(0)
			for _, c := range clusters {
				if c.At != end || c.Length <= 0 || c.Off < 0 || c.Stored < 0 || c.Off > b.Size()-max(c.Stored, 1) {
					panic(fmt.Sprintf("clusters %v of %d bytes", clusters, f.Inode.Size))
				}
				end += c.Length
			}
			if err == nil && end != f.Inode.Size {
				panic(fmt.Sprintf("clusters of %d bytes for %d", end, f.Inode.Size))
			}
			return err
		}
		extents, err := image.Extents(ctx, f)
		for i, e := range extents {
			if e.Length <= 0 || e.At < 0 || e.At+e.Length > f.Inode.Size || i > 0 && e.At < extents[i-1].At+extents[i-1].Length {
				panic(fmt.Sprintf("extents %v of %d bytes", extents, f.Inode.Size))
			}
		}
		return err
	})
}

func TestCyclesEnd(t *testing.T) {
	t.Parallel()
	b := smallImage(t)
	le := binary.LittleEndian
	le.PutUint32(b[1024+8:], 0)
	// The root's entries follow its inode; "dir" is the third name. Make it the root.
	at := bytes.Index(b[2<<12:], []byte("...dirlink"))
	if at < 0 {
		t.Fatal("no directory found")
	}
	dirents := 2<<12 + at - 4*12
	le.PutUint64(b[dirents+2*12:], uint64(le.Uint16(b[1024+14:])))
	if err := walk(t.Context(), b); reason.Of(err) != reason.FormatCorrupt || !strings.Contains(fmt.Sprint(err), "two parents") {
		t.Errorf("error %v", err)
	}
}

// counting counts reads and those under way at a time.
type counting struct {
	lazyblock.InMemory

	reads, now, most atomic.Int64
}

func (c *counting) ReadRange(ctx context.Context, p []byte, off int64) (int, error) {
	c.reads.Add(1)
	if now := c.now.Add(1); now > c.most.Load() {
		c.most.Store(now)
	}
	defer c.now.Add(-1)
	for range 100 {
		runtime.Gosched() // for others to come in
	}
	return c.InMemory.ReadRange(ctx, p, off)
}

// TestWarmImagesAreWalkedFromMemory walks an image without one more read.
func TestWarmImagesAreWalkedFromMemory(t *testing.T) {
	t.Parallel()
	data, _ := mkfs(t, "")
	source := &counting{InMemory: data}
	image, err := ondisk.Open(t.Context(), source)
	if err != nil {
		t.Fatal(err)
	}
	if err := image.Warm(t.Context()); err != nil {
		t.Fatal(err)
	}
	warm := source.reads.Load()
	if most := source.most.Load(); most < 2 {
		t.Errorf("%d reads, never two at a time", warm)
	}
	files := 0
	err = image.Walk(t.Context(), func(string, *ondisk.File) error {
		files++
		return nil
	})
	if err != nil || files < 950 {
		t.Errorf("%d files, %v", files, err)
	}
	// Attributes that inodes share are a page of their own.
	if more := source.reads.Load() - warm; more > 1 {
		t.Errorf("%d reads warmed the image, and the walk needed %d more", warm, more)
	}
}

func TestReadErrorsPass(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	image, err := ondisk.Open(ctx, smallImage(t))
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := image.Walk(ctx, func(string, *ondisk.File) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

func FuzzWalk(f *testing.F) {
	b := smallImage(f)
	binary.LittleEndian.PutUint32(b[1024+8:], 0)
	f.Add([]byte(b))
	dir := f.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "large"), bytes.Repeat([]byte("same "), 20_000), 0o600); err != nil {
		f.Fatal(err)
	}
	for _, arguments := range [][]string{{"-zlz4"}, {"-zlz4", "-Elegacy-compress"}, {"-zlz4hc", "-C16384", "-Eztailpacking"}} {
		compressed, _ := mkfs(f, dir, arguments...)
		binary.LittleEndian.PutUint32(compressed[1024+8:], 0)
		f.Add([]byte(compressed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := walk(t.Context(), b); errors.Is(err, io.EOF) {
			t.Errorf("bytes were read that are not there: %v", err)
		}
	})
}

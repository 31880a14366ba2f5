package disk_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/referee-cri/referee/internal/fsimage"
	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/internal/treecmp"
	"github.com/referee-cri/referee/lazyblock"
	"github.com/referee-cri/referee/lazyblock/format/disk"
	"github.com/referee-cri/referee/lazyblock/format/formattest"
)

func form(mediaType string, b []byte) lazyblock.Form {
	return lazyblock.Form{ID: "disk", Layers: []lazyblock.FormBlob{{RangeReader: lazyblock.InMemory(b), Descriptor: ocispec.Descriptor{MediaType: mediaType, Size: int64(len(b))}}}}
}

// run runs a program of the system.
func run(t *testing.T, name string, arguments ...string) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, arguments...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v: %s", name, arguments, err, out)
	}
}

// someFiles fills a directory.
func someFiles(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	random := rand.New(rand.NewPCG(1, 1))
	for i := range 60 {
		content := make([]byte, random.IntN(100_000))
		for i := range content {
			content[i] = byte(random.Uint32())
		}
		path := filepath.Join(dir, fmt.Sprint("dir", i%7), fmt.Sprint("file", i))
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, content, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Symlink("dir1/file1", filepath.Join(dir, "link")), unix.Setxattr(filepath.Join(dir, "dir1"), "user.lab", []byte("x"), 0)); err != nil {
		t.Fatal(err)
	}
	return dir
}

// makeDisk makes a disk with dir on it.
func makeDisk(t *testing.T, fsType, dir string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	switch fsType {
	case "ext4":
		run(t, "mkfs.ext4", "-q", "-d", dir, "-O", "^has_journal", path, "16M")
	case "xfs": // the smallest that mkfs.xfs 6.1 makes
		if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, 300<<20)); err != nil {
			t.Fatal(err)
		}
		proto := filepath.Join(t.TempDir(), "proto")
		if err := os.WriteFile(proto, []byte(protoFile(t, dir)), 0o600); err != nil {
			t.Fatal(err)
		}
		run(t, "mkfs.xfs", "-q", "-p", proto, path)
	case "erofs":
		run(t, "mkfs.erofs", "-zlz4", path, dir)
	case "squashfs":
		run(t, "mksquashfs", dir, path, "-quiet", "-no-progress")
	}
	return path
}

// protoFile describes dir for mkfs.xfs.
func protoFile(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	b.WriteString("nothing\n0 0\nd--755 0 0\n")
	var list func(string)
	list = func(dir string) {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			switch path := filepath.Join(dir, e.Name()); {
			case e.IsDir():
				fmt.Fprintf(&b, "%s d--755 0 0\n", e.Name())
				list(path)
				b.WriteString("$\n")
			case e.Type()&os.ModeSymlink != 0:
				target, err := os.Readlink(path)
				if err != nil {
					t.Fatal(err)
				}
				fmt.Fprintf(&b, "%s l--777 0 0 %s\n", e.Name(), target)
			default:
				fmt.Fprintf(&b, "%s ---600 0 0 %s\n", e.Name(), path)
			}
		}
	}
	list(dir)
	b.WriteString("$\n")
	return b.String()
}

// wrap puts a raw disk into a container of qemu-img's making.
func wrap(t *testing.T, raw, container string) []byte {
	t.Helper()
	path := raw
	if container != "raw" {
		path = filepath.Join(t.TempDir(), "vhd")
		run(t, "qemu-img", "convert", "-f", "raw", "-O", "vpc", "-o", "force_size=on,subformat="+container, raw, path)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// TestDisksAreMounted goes through file systems and containers that stock programs made.
func TestDisksAreMounted(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	dir := someFiles(t)
	want, err := treecmp.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ fsType, container, suffix string }{
		{"ext4", "raw", ""},
		{"ext4", "fixed", ""},
		{"ext4", "dynamic", ""},
		{"ext4", "dynamic", disk.ZstdSuffix},
		{"xfs", "dynamic", ""},
		{"erofs", "raw", disk.ZstdSuffix},
		{"squashfs", "raw", ""},
		{"squashfs", "fixed", disk.ZstdSuffix},
	} {
		t.Run(tc.fsType+" "+tc.container+tc.suffix, func(t *testing.T) {
			t.Parallel()
			content := wrap(t, makeDisk(t, tc.fsType, dir), tc.container)
			mediaType := disk.MediaTypeVHD + tc.suffix
			if tc.container == "raw" {
				mediaType = disk.MediaTypeRaw + tc.suffix
			}
			if tc.suffix != "" {
				content = fsimage.SeekableZstd(t, content, 1<<20)
			}
			v, err := disk.Open(t.Context(), form(mediaType, content), nil)
			if err != nil {
				t.Fatal(err)
			}
			if v.FSType != tc.fsType {
				t.Errorf("file system %q", v.FSType)
			}
			got, err := treecmp.List(formattest.Mount(t, v))
			if err != nil {
				t.Fatal(err)
			}
			ignored := []treecmp.Ignore{{Path: "/lost+found", Why: "mkfs.ext4 makes it"}, {Path: "/", Field: treecmp.FieldMode, Why: "that of a temporary directory, or of mkfs"}}
			if tc.fsType == "xfs" {
				ignored = append(ignored, treecmp.Ignore{Field: treecmp.FieldMtime, Why: "the proto file has no times"}, treecmp.Ignore{Field: treecmp.FieldNsec, Why: "as above"}, treecmp.Ignore{Field: treecmp.FieldXattrs, Why: "nor attributes"})
			}
			if tc.fsType == "ext4" || tc.fsType == "squashfs" {
				ignored = append(ignored, treecmp.Ignore{Field: treecmp.FieldNsec, Why: "mkfs keeps whole seconds"})
			}
			for _, d := range treecmp.Diff(want, got, ignored...) {
				t.Error(d)
			}
			if err := v.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestDynamicBlocksAreThoseOfTheDisk compares every byte, also of blocks that are
// not there, and of blocks with a bitmap that has holes.
func TestDynamicBlocksAreThoseOfTheDisk(t *testing.T) {
	t.Parallel()
	raw := make([]byte, 11<<20)
	random := rand.New(rand.NewPCG(7, 7))
	for _, at := range []int{0, 512 * 77, 3 << 20, 5<<20 - 100, 10 << 20} {
		for i := range 3000 {
			raw[at+i] = byte(random.Uint32())
		}
	}
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	clear(raw[1024:2048])
	copy(raw[1024:], "\xe2\xe1\xf5\xe0") // an EROFS as far as anybody looks
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	vhd := wrap(t, path, "dynamic")
	// Sector 100 of the disk loses its bit, and keeps its bytes.
	table := int(binary.BigEndian.Uint64(vhd[512+16:]))
	block := int(binary.BigEndian.Uint32(vhd[table:])) * 512
	copy(vhd[block+512+100*512:], "not to be seen")
	vhd[block+100/8] &^= 1 << (7 - 100%8)
	clear(raw[100*512 : 101*512])

	v, err := disk.Open(t.Context(), form(disk.MediaTypeVHD, vhd), nil)
	if err != nil {
		t.Fatal(err)
	}
	d := v.Primary
	if d.Size() != int64(len(raw)) {
		t.Fatalf("disk of %d bytes, want %d", d.Size(), len(raw))
	}
	sparse, ok := d.(formattest.Sparse)
	if !ok {
		t.Fatal("the disk does not say where its data is")
	}
	rest := bytes.Clone(raw)
	for off, n := range sparse.Data() {
		clear(rest[off : off+n])
	}
	if !bytes.Equal(rest, make([]byte, len(raw))) || bytes.Equal(raw, rest) {
		t.Error("there is data where the disk says there is none")
	}
	for range 500 {
		off := random.IntN(len(raw))
		p := bytes.Repeat([]byte{0xEE}, random.IntN(5<<20)+1)
		n, err := d.ReadRange(t.Context(), p, int64(off))
		if !bytes.Equal(p[:n], raw[off:min(len(raw), off+len(p))]) || (err != nil) != (n < len(p)) {
			t.Fatalf("%d of %d bytes at %d: %v", n, len(p), off, err)
		}
	}
}

// dynamic is a small dynamic VHD: one block that is there, one that is not.
func dynamic() []byte {
	const block = 512 << 10
	b := make([]byte, 512+1024+512+512+block+512)
	be := binary.BigEndian
	footer := b[len(b)-512:]
	copy(footer, "conectix")
	be.PutUint32(footer[12:], 0x10000)
	be.PutUint64(footer[16:], 512)
	be.PutUint64(footer[48:], 2*block)
	be.PutUint32(footer[60:], 3)
	header := b[512:1536]
	copy(header, "cxsparse")
	be.PutUint64(header[16:], 1536)
	be.PutUint32(header[24:], 0x10000)
	be.PutUint32(header[28:], 2)
	be.PutUint32(header[32:], block)
	be.PutUint32(b[1536:], 4)
	be.PutUint32(b[1540:], 0xFFFFFFFF)
	copy(b[2048:], bytes.Repeat([]byte{0xFF}, 128))
	copy(b[2560+1024:], "\xe2\xe1\xf5\xe0")
	seal(b)
	return b
}

// seal makes the checksums right.
func seal(b []byte) {
	for _, part := range []struct {
		b  []byte
		at int
	}{{b[len(b)-512:], 64}, {b[512:1536], 36}} {
		sum := uint32(0)
		binary.BigEndian.PutUint32(part.b[part.at:], 0)
		for _, c := range part.b {
			sum += uint32(c)
		}
		binary.BigEndian.PutUint32(part.b[part.at:], ^sum)
	}
	copy(b[:512], b[len(b)-512:])
}

func TestWhatIsNoDiskIsRefused(t *testing.T) {
	t.Parallel()
	be := binary.BigEndian
	raw := make([]byte, 8192)
	vhd := func(change func(b, footer, header []byte)) []byte {
		b := dynamic()
		change(b, b[len(b)-512:], b[512:1536])
		seal(b)
		return b
	}
	boot := bytes.Clone(raw)
	boot[510], boot[511] = 0x55, 0xAA
	gpt := bytes.Clone(boot)
	copy(gpt[512:], "EFI PART")
	unsealed := dynamic()
	unsealed[len(unsealed)-100]++
	for name, tc := range map[string]struct {
		mediaType string
		content   []byte
		code      reason.Code
		says      string
	}{
		"sound":                 {disk.MediaTypeVHD, dynamic(), reason.None, ""},
		"another media type":    {"application/octet-stream", raw, reason.ArtifactInvalid, "octet-stream"},
		"another compression":   {disk.MediaTypeRaw + "+gzip", raw, reason.ArtifactInvalid, "+gzip"},
		"empty":                 {disk.MediaTypeRaw, nil, reason.FormatCorrupt, "0 bytes"},
		"zeros":                 {disk.MediaTypeRaw, raw, reason.FormatCorrupt, "no known file system"},
		"a partition table":     {disk.MediaTypeRaw, boot, reason.NotAttachable, "partition table"},
		"a GUID table":          {disk.MediaTypeRaw, gpt, reason.NotAttachable, "GUID partition table"},
		"not seekable":          {disk.MediaTypeRaw + disk.ZstdSuffix, raw, reason.NotAttachable, "seek table"},
		"VHD too short":         {disk.MediaTypeVHD, raw[:100], reason.FormatCorrupt, "100 bytes"},
		"VHD without footer":    {disk.MediaTypeVHD, raw, reason.FormatCorrupt, "conectix"},
		"wrong checksum":        {disk.MediaTypeVHD, unsealed, reason.FormatCorrupt, "checksum"},
		"version 2":             {disk.MediaTypeVHD, vhd(func(_, f, _ []byte) { be.PutUint32(f[12:], 2<<16) }), reason.FormatCorrupt, "version"},
		"differencing":          {disk.MediaTypeVHD, vhd(func(_, f, _ []byte) { be.PutUint32(f[60:], 4) }), reason.NotAttachable, "differencing"},
		"unknown type":          {disk.MediaTypeVHD, vhd(func(_, f, _ []byte) { be.PutUint32(f[60:], 5) }), reason.FormatCorrupt, "type 5"},
		"no disk":               {disk.MediaTypeVHD, vhd(func(_, f, _ []byte) { be.PutUint64(f[48:], 0) }), reason.FormatCorrupt, "0 bytes"},
		"disk of an exabyte":    {disk.MediaTypeVHD, vhd(func(_, f, _ []byte) { be.PutUint64(f[48:], 1<<60) }), reason.FormatCorrupt, "up to"},
		"half a sector":         {disk.MediaTypeVHD, vhd(func(_, f, _ []byte) { be.PutUint64(f[48:], 700) }), reason.FormatCorrupt, "sectors"},
		"fixed, too short":      {disk.MediaTypeVHD, vhd(func(_, f, _ []byte) { be.PutUint32(f[60:], 2) }), reason.FormatCorrupt, "fixed"},
		"header outside":        {disk.MediaTypeVHD, vhd(func(_, f, _ []byte) { be.PutUint64(f[16:], 1<<63) }), reason.FormatCorrupt, "header at"},
		"header elsewhere":      {disk.MediaTypeVHD, vhd(func(_, f, _ []byte) { be.PutUint64(f[16:], 2048) }), reason.FormatCorrupt, "cxsparse"},
		"blocks of 3 sectors":   {disk.MediaTypeVHD, vhd(func(_, _, h []byte) { be.PutUint32(h[32:], 1536) }), reason.FormatCorrupt, "1536"},
		"blocks of 2 GiB":       {disk.MediaTypeVHD, vhd(func(_, _, h []byte) { be.PutUint32(h[32:], 1<<31) }), reason.FormatCorrupt, "2147483648"},
		"table too short":       {disk.MediaTypeVHD, vhd(func(_, _, h []byte) { be.PutUint32(h[28:], 1) }), reason.FormatCorrupt, "table of 1"},
		"table too long":        {disk.MediaTypeVHD, vhd(func(_, _, h []byte) { be.PutUint32(h[28:], 1<<31) }), reason.FormatCorrupt, "table of"},
		"table outside":         {disk.MediaTypeVHD, vhd(func(_, _, h []byte) { be.PutUint64(h[16:], 1<<62) }), reason.FormatCorrupt, "table at"},
		"table at the very end": {disk.MediaTypeVHD, vhd(func(b, _, h []byte) { be.PutUint64(h[16:], uint64(len(b)-4)) }), reason.FormatCorrupt, "8 bytes at"},
		"block outside":         {disk.MediaTypeVHD, vhd(func(b, _, _ []byte) { be.PutUint32(b[1540:], 6) }), reason.FormatCorrupt, "block 1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := disk.Open(t.Context(), form(tc.mediaType, tc.content), nil)
			if reason.Of(err) != tc.code || !strings.Contains(fmt.Sprint(err), tc.says) {
				t.Errorf("error %v (%s), want %s that says %q", err, reason.Of(err), tc.code, tc.says)
			}
		})
	}
	for name, layers := range map[string][]lazyblock.FormBlob{"no layer": nil, "two layers": make([]lazyblock.FormBlob, 2)} {
		if _, err := disk.Open(t.Context(), lazyblock.Form{Layers: layers}, nil); reason.Of(err) != reason.ArtifactInvalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzVHD(f *testing.F) {
	f.Add(dynamic())
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 2048 {
			seal(b)
		}
		v, err := disk.Open(t.Context(), form(disk.MediaTypeVHD, b), nil)
		if err != nil {
			return
		}
		p := make([]byte, min(v.Primary.Size(), 1<<20))
		if n, err := v.Primary.ReadRange(t.Context(), p, 0); n < len(p) && (err == nil || errors.Is(err, io.EOF)) {
			t.Errorf("%d of %d bytes: %v", n, len(p), err)
		}
	})
}

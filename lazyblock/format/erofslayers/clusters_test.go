package erofslayers_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/referee-cri/referee/internal/fsimage"
	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/lazyblock"
	"github.com/referee-cri/referee/lazyblock/erofs/ondisk"
	"github.com/referee-cri/referee/lazyblock/format/erofslayers"
	"github.com/referee-cri/referee/lazyblock/format/formattest"
)

// variedContent is compressible here, random there, and begins anew at odd places.
func variedContent() []byte {
	random := rand.New(rand.NewPCG(7, 7))
	var content []byte
	for n := range 24 {
		part := make([]byte, 1000+random.IntN(30_000))
		for i := range part {
			part[i] = byte(random.IntN(2 << (n % 8)))
		}
		content = append(content, part...)
	}
	return content
}

// varied makes an image of one file of variedContent, with indexes of 8 bytes.
func varied(t *testing.T, arguments ...string) []byte {
	t.Helper()
	image := small(t, func(dir string) error {
		return os.WriteFile(filepath.Join(dir, "file"), variedContent(), 0o600)
	}, append(arguments, "-Elegacy-compress")...)
	binary.LittleEndian.PutUint32(image[1024+8:], 0) // the checksum is not to be looked at
	return image
}

// header is where in an image of varied the header of its compressed file is.
func header(t *testing.T, image []byte) int {
	t.Helper()
	opened, err := ondisk.Open(t.Context(), lazyblock.InMemory(image))
	if err != nil {
		t.Fatal(err)
	}
	at := 0
	err = opened.Walk(t.Context(), func(name string, f *ondisk.File) error {
		if name == "/file" {
			at = int(opened.MetaBlock)<<opened.BlockBits + int(f.NID)*32
		}
		return nil
	})
	if err != nil || image[at]>>1&7 != 1 || binary.LittleEndian.Uint16(image[at+2:]) != 0 {
		t.Fatalf("file of the layout %d, want 1 and no attributes: %v", image[at]>>1&7, err)
	}
	return at + 32 + 32*int(image[at]&1)
}

// TestClustersAreReadAsLinuxReadsThem bends what mkfs.erofs writes to what only
// later releases do, and compares a merge with what the kernel makes of the image.
func TestClustersAreReadAsLinuxReadsThem(t *testing.T) {
	t.Parallel()
	le := binary.LittleEndian
	const plain, first, advise = 0, 1, 4
	for name, tc := range map[string]struct {
		arguments []string
		bend      func(image []byte, header int) (bent int)
		same      bool // the content is still what it was
	}{
		"as they are":       {[]string{"-zlz4"}, func([]byte, int) int { return 1 }, true},
		"several blocks":    {[]string{"-zlz4hc", "-C65536"}, func([]byte, int) int { return 1 }, true},
		"short extents":     {[]string{"-zlz4", "--max-extent-bytes=5000"}, func([]byte, int) int { return 1 }, true},
		"a tail behind":     {[]string{"-zlz4", "-Eztailpacking"}, func([]byte, int) int { return 1 }, true},
		"rotated as stored": {[]string{"-zlz4hc", "-C16384"}, func(image []byte, header int) (bent int) { image[header+advise] |= 0x10; return 1 }, false},
		"the start of another's cluster": {[]string{"-zlz4"}, func(image []byte, header int) (bent int) {
			// Each head takes the block of one before it whose cluster is longer.
			var longest, block uint32
			last := -1
			for at := header + 16; at+16 <= len(image) && bent < 8; at += 8 {
				kind := le.Uint16(image[at:]) & 3
				if kind > 2 {
					break
				}
				if kind == 2 {
					continue
				}
				if here := uint32((at-header-16)/8)<<12 + uint32(le.Uint16(image[at+2:])); last >= 0 && le.Uint16(image[last:])&3 == first {
					length := here - uint32((last-header-16)/8)<<12 - uint32(le.Uint16(image[last+2:]))
					switch {
					case length > longest:
						longest, block = length, le.Uint32(image[last+4:])
					case length < longest:
						le.PutUint16(image[last:], first|1<<15)
						le.PutUint32(image[last+4:], block)
						bent++
					}
				}
				last = at
			}
			return bent
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			image := varied(t, tc.arguments...)
			if bent := tc.bend(image, header(t, image)); bent == 0 {
				t.Fatal("nothing was bent")
			}
			want := contentOf(t, form("", image))
			if tc.same != bytes.Equal(want, variedContent()) {
				t.Errorf("the kernel reads what was written: %v, want %v", !tc.same, tc.same)
			}
			got := contentOf(t, form("", small(t, file("below", "x")), image))
			if !bytes.Equal(got, want) {
				t.Errorf("merged, %d bytes are not the %d that the kernel reads", len(got), len(want))
			}
		})
	}
}

func contentOf(t *testing.T, f lazyblock.Form) []byte {
	t.Helper()
	v, err := erofslayers.Open(t.Context(), f, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := v.Close(); err != nil {
			t.Error(err)
		}
	})
	content, err := os.ReadFile(filepath.Join(formattest.Mount(t, v), "file"))
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func TestClustersThatAreNotReadAreRefused(t *testing.T) {
	t.Parallel()
	le := binary.LittleEndian
	for name, tc := range map[string]struct {
		bend func(image []byte, header int)
		code reason.Code
		says string
	}{
		"zstd":              {func(b []byte, h int) { b[h+6] = 3 }, reason.NotAttachable, "zstd"},
		"LZMA":              {func(b []byte, h int) { b[h+6] = 1 }, reason.NotAttachable, "LZMA"},
		"a fragment":        {func(b []byte, h int) { b[h+7] |= 0x80 }, reason.NotAttachable, "fragments"},
		"a fragment behind": {func(b []byte, h int) { b[h+4] |= 0x20 }, reason.NotAttachable, "fragments"},
		"unknown advice":    {func(b []byte, h int) { b[h+5] |= 0x80 }, reason.NotAttachable, "0x80"},
		"a second zstd":     {func(b []byte, h int) { b[h+6] = 0x30; b[h+16+8] = 3 }, reason.NotAttachable, "second algorithm"},
		"no beginning":      {func(b []byte, h int) { b[h+16] = 2 }, reason.FormatCorrupt, "no beginning"},
		"begins later":      {func(b []byte, h int) { b[h+16+2] = 1 }, reason.FormatCorrupt, "begins at 1 of"},
		"block outside":     {func(b []byte, h int) { le.PutUint32(b[h+16+4:], 1<<31) }, reason.FormatCorrupt, "of an image"},
		"no inline tail":    {func(b []byte, h int) { b[h+4] |= 8; le.PutUint16(b[h+2:], 0) }, reason.FormatCorrupt, "behind the indexes"},
		"a long tail":       {func(b []byte, h int) { b[h+4] |= 8; le.PutUint16(b[h+2:], 5000) }, reason.FormatCorrupt, "behind the indexes"},
		"no count": {func(b []byte, h int) {
			for at := h + 16; ; at += 8 {
				if le.Uint16(b[at:])&3 == 2 && le.Uint16(b[at+4:])&(1<<11) != 0 {
					le.PutUint16(b[at+4:], 1)
					return
				}
			}
		}, reason.FormatCorrupt, "does not count"},
		"a huge count": {func(b []byte, h int) {
			for at := h + 16; ; at += 8 {
				if le.Uint16(b[at:])&3 == 2 && le.Uint16(b[at+4:])&(1<<11) != 0 {
					le.PutUint16(b[at+4:], 0xFFF)
					return
				}
			}
		}, reason.FormatCorrupt, "cluster of"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			image := varied(t, "-zlz4hc", "-C65536")
			tc.bend(image, header(t, image))
			_, err := erofslayers.Open(t.Context(), form("", image, image), nil)
			if reason.Of(err) != tc.code || err == nil || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("error %v (%s), want %s that says %q", err, reason.Of(err), tc.code, tc.says)
			}
		})
	}
}

// FuzzCompressed bends the metadata of compressed images.
func FuzzCompressed(f *testing.F) {
	if os.Geteuid() != 0 {
		f.Skip("mkfs.erofs is run as root")
	}
	var images [][]byte
	for _, arguments := range [][]string{{"-zlz4"}, {"-zlz4", "-Elegacy-compress"}, {"-zlz4hc", "-C16384", "-Eztailpacking"}} {
		dir := f.TempDir()
		content := strings.Repeat("the same again ", 3000) + strings.Repeat("and another ", 3000)
		if err := errors.Join(file("a", content)(dir), file("b", "b")(dir)); err != nil {
			f.Fatal(err)
		}
		image := fsimage.EROFS(f, dir, arguments...)
		binary.LittleEndian.PutUint32(image[1024+8:], 0)
		images = append(images, image)
		f.Add(uint8(len(images)-1), uint16(0), []byte{})
		f.Add(uint8(len(images)-1), uint16(1280), image[1280:1400])
	}
	f.Fuzz(func(t *testing.T, which uint8, at uint16, change []byte) {
		image := slices.Clone(images[int(which)%len(images)])
		copy(image[int(at)%len(image):], change)
		v, err := erofslayers.Open(t.Context(), form("", image, image), nil)
		if err != nil {
			return
		}
		p := make([]byte, min(v.Primary.Size(), 1<<20))
		if n, err := v.Primary.ReadRange(t.Context(), p, 0); err != nil && (errors.Is(err, io.EOF) || reason.Of(err) != reason.FormatCorrupt) {
			t.Errorf("%d of %d bytes: %v", n, len(p), err)
		}
	})
}

package nydus_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/referee-cri/referee/internal/fsimage"
	"github.com/referee-cri/referee/internal/rafstest"
	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/internal/treecmp"
	"github.com/referee-cri/referee/lazyblock"
	"github.com/referee-cri/referee/lazyblock/erofs"
	"github.com/referee-cri/referee/lazyblock/erofs/ondisk"
	"github.com/referee-cri/referee/lazyblock/format/formattest"
	"github.com/referee-cri/referee/lazyblock/format/nydus"
)

func form(t testing.TB, img *rafstest.Image) lazyblock.Form {
	t.Helper()
	f := lazyblock.Form{ID: "volume"}
	layers, contents := img.Layers(t)
	for i, layer := range layers {
		f.Layers = append(f.Layers, lazyblock.FormBlob{RangeReader: lazyblock.InMemory(contents[i]), Descriptor: layer})
	}
	for i, table := range img.Tables() {
		f.Tables = append(f.Tables, lazyblock.FormBlob{RangeReader: lazyblock.InMemory(img.Originals[i]), Descriptor: table})
	}
	return f
}

// smallLayers are two layers whose files are random, and their contents.
func smallLayers(t testing.TB) [][]byte {
	t.Helper()
	random := rand.New(rand.NewPCG(3, 3))
	content := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(random.IntN(8))
		}
		return b
	}
	first := fsimage.Tar(t, map[string][]byte{"one/large": content(300_000), "one/small": content(100), "one/tiny": content(5)})
	second := fsimage.Tar(t, map[string][]byte{"two/large": content(200_000), "two/small": content(4097)})
	return [][]byte{first, second}
}

// TestKernelPassesOverWhatRAFSPutsBeside it mounts an image whose chunk indexes
// hold RAFS's own numbers in the bits that EROFS leaves.
func TestKernelPassesOverWhatRAFSPutsBeside(t *testing.T) {
	t.Parallel()
	img := rafstest.Write(t, smallLayers(t), rafstest.Options{Compression: rafstest.Zstd})
	bent := 0
	boot, err := ondisk.Open(t.Context(), lazyblock.InMemory(img.Bootstrap))
	if err != nil {
		t.Fatal(err)
	}
	err = boot.Walk(t.Context(), func(_ string, f *ondisk.File) error {
		if f.Inode.Type() != erofs.TypeRegular {
			return nil
		}
		// One chunk a file: its index follows the inode, which has no attributes.
		at := int(boot.MetaBlock)*4096 + int(f.NID)*32
		at += 32 + 32*int(img.Bootstrap[at]&1)
		index := img.Bootstrap[at:]
		binary.LittleEndian.PutUint16(index, 0x1234)
		index[3] = 0x77
		bent++
		return nil
	})
	if err != nil || bent != 5 {
		t.Fatalf("%d chunk indexes bent, want those of five files: %v", bent, err)
	}
	v, err := nydus.Open(t.Context(), form(t, img), nil)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := nydus.Open(t.Context(), form(t, rafstest.Write(t, smallLayers(t), rafstest.Options{Compression: rafstest.Zstd})), nil)
	if err != nil {
		t.Fatal(err)
	}
	want, err := treecmp.List(formattest.Mount(t, plain))
	if err != nil {
		t.Fatal(err)
	}
	got, err := treecmp.List(formattest.Mount(t, v))
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range treecmp.Diff(want, got) {
		t.Error(d)
	}
}

// TestFilesToPrefetchAreHints compares hints with what reading the files fetches.
func TestFilesToPrefetchAreHints(t *testing.T) {
	t.Parallel()
	img := rafstest.Write(t, smallLayers(t), rafstest.Options{Compression: rafstest.Zstd, Prefetch: []string{"/two/large", "/one"}})
	v, err := nydus.Open(t.Context(), form(t, img), nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(v.Hints) < 2 || v.Hints[0].Blob != 1 || v.Hints[len(v.Hints)-1].Blob != 0 {
		t.Fatalf("hints %v, want the second blob's first", v.Hints)
	}
	total := int64(0)
	for _, h := range v.Hints {
		if h.Off < 0 || h.Length <= 0 || h.Off+h.Length > int64(len(img.Blobs[h.Blob])) {
			t.Errorf("hint %v outside its blob", h)
		}
		total += h.Length
	}
	if total < 100_000 || total > 300_000 { // of 500,105: each byte is one of eight
		t.Errorf("hints of %d bytes", total)
	}
}

func TestUnlistedChunksAreNoZeros(t *testing.T) {
	t.Parallel()
	img := rafstest.Write(t, smallLayers(t), rafstest.Options{})
	// The table of chunks loses its first row: that of a chunk of the first blob.
	le := binary.LittleEndian
	ext := img.Bootstrap[rafstest.Extended:]
	le.PutUint64(ext[24:], le.Uint64(ext[24:])+80)
	le.PutUint64(ext[32:], le.Uint64(ext[32:])-80)
	v, err := nydus.Open(t.Context(), form(t, img), nil)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := v.Extra[0].ReadRange(t.Context(), make([]byte, 4096), 0); err == nil || n != 0 {
		t.Errorf("%d bytes of a chunk that nobody lists: %v", n, err)
	}
	sparse, ok := v.Extra[0].(interface {
		Data() iter.Seq2[int64, int64]
	})
	if !ok {
		t.Fatal("the device does not say where its data is")
	}
	for off, n := range sparse.Data() {
		if err := lazyblock.ReadFull(t.Context(), v.Extra[0], make([]byte, n), off); err != nil || off == 0 {
			t.Errorf("%d bytes of data at %d: %v", n, off, err)
		}
	}
	last := make([]byte, 4096)
	if _, err := v.Extra[0].ReadRange(t.Context(), last, v.Extra[0].Size()-4096); err != nil {
		t.Errorf("a chunk that is listed: %v", err)
	}
}

func TestBrokenImagesAreRefused(t *testing.T) {
	t.Parallel()
	le := binary.LittleEndian
	const super, ext = rafstest.Superblock, rafstest.Extended
	row := rafstest.Where(0)
	batched := rafstest.Options{Compression: rafstest.Zstd, Batch: 32 << 10, NoChunks: true}
	zran := rafstest.Options{Zran: true}
	for name, tc := range map[string]struct {
		opts   rafstest.Options
		change func(b []byte)
		code   reason.Code
		says   string
	}{
		"sound":                  {rafstest.Options{}, func([]byte) {}, reason.None, ""},
		"RAFS version 5":         {rafstest.Options{}, func(b []byte) { le.PutUint32(b, 0x52414653) }, reason.NotAttachable, "version 5"},
		"plain EROFS":            {rafstest.Options{}, func(b []byte) { le.PutUint32(b[super+8:], 0) }, reason.FormatCorrupt, "without the mark"},
		"no EROFS":               {rafstest.Options{}, func(b []byte) { b[super]++ }, reason.FormatCorrupt, "superblock"},
		"blocks of tarfs":        {rafstest.Options{}, func(b []byte) { b[super+12] = 9 }, reason.NotAttachable, "tarfs"},
		"compressed EROFS":       {rafstest.Options{}, func(b []byte) { b[super+80] |= 1 }, reason.NotAttachable, "features"},
		"other device table":     {rafstest.Options{}, func(b []byte) { b[super+88]-- }, reason.FormatCorrupt, "device table"},
		"fewer blobs":            {rafstest.Options{}, func(b []byte) { le.PutUint32(b[ext+16:], 256) }, reason.FormatCorrupt, "1 blobs for 2"},
		"half a blob":            {rafstest.Options{}, func(b []byte) { le.PutUint32(b[ext+16:], 300) }, reason.FormatCorrupt, "multiple of 256"},
		"blobs outside":          {rafstest.Options{}, func(b []byte) { le.PutUint64(b[ext+8:], 1<<63) }, reason.FormatCorrupt, "table of blobs"},
		"chunks outside":         {rafstest.Options{}, func(b []byte) { le.PutUint64(b[ext+32:], 80<<40) }, reason.FormatCorrupt, "table of chunks"},
		"prefetches outside":     {rafstest.Options{}, func(b []byte) { le.PutUint32(b[ext+48:], 0xFFFFFFFC) }, reason.FormatCorrupt, "table of prefetch"},
		"chunk size":             {rafstest.Options{}, func(b []byte) { le.PutUint32(b[ext+20:], 1<<30) }, reason.FormatCorrupt, "chunks of"},
		"tarfs mode":             {rafstest.Options{}, func(b []byte) { b[ext+1] |= 2 }, reason.NotAttachable, "tarfs"},
		"encrypted":              {rafstest.Options{}, func(b []byte) { b[ext+3] = 2 }, reason.NotAttachable, "encrypted"},
		"sound zran":             {zran, func([]byte) {}, reason.None, ""},
		"zran, not of gzip":      {rafstest.Options{}, func(b []byte) { b[row+84] |= 8 }, reason.FormatCorrupt, "original layer"},
		"zran in short rows":     {zran, func(b []byte) { b[row+84] &^= 4 }, reason.FormatCorrupt, "original layer"},
		"list in another way":    {zran, func(b []byte) { b[row+84] &^= 8 }, reason.NotAttachable, "not in the mode zran"},
		"zran without its list":  {zran, func(b []byte) { b[row+168]++ }, reason.NotAttachable, "lists the chunks"},
		"zran without its data":  {zran, func(b []byte) { b[row], b[1408] = 'x', 'x' }, reason.NotAttachable, "not among the layers"},
		"zran, other contents":   {zran, func(b []byte) { b[row+136]++ }, reason.FormatCorrupt, "table of contents"},
		"zran, fewer chunks":     {zran, func(b []byte) { b[row+72]-- }, reason.FormatCorrupt, "chunks, the bootstrap"},
		"external":               {rafstest.Options{}, func(b []byte) { b[row+85] |= 8 }, reason.NotAttachable, "outside"},
		"encrypted blob":         {rafstest.Options{}, func(b []byte) { b[row+216] = 1 }, reason.NotAttachable, "encrypted"},
		"unknown feature":        {rafstest.Options{}, func(b []byte) { b[row+86] |= 8 }, reason.NotAttachable, "features"},
		"unknown compression":    {rafstest.Options{}, func(b []byte) { b[row+76] = 9 }, reason.NotAttachable, "compression 9"},
		"unknown digest":         {rafstest.Options{}, func(b []byte) { b[row+80] = 9 }, reason.NotAttachable, "digest algorithm 9"},
		"blob of another name":   {rafstest.Options{}, func(b []byte) { b[row] ^= 1 }, reason.FormatCorrupt, "stands for"},
		"blob that is elsewhere": {rafstest.Options{}, func(b []byte) { b[row], b[1408] = 'x', 'x' }, reason.NotAttachable, "not among the layers"},
		"larger than its device": {rafstest.Options{}, func(b []byte) { le.PutUint64(b[row+96:], 1<<40) }, reason.FormatCorrupt, "its device"},
		"chunk of another blob":  {rafstest.Options{}, func(b []byte) { le.PutUint32(b[chunkTable(b)+32:], 7) }, reason.FormatCorrupt, "blob 7 of 2"},
		"chunk outside its blob": {rafstest.Options{}, func(b []byte) { le.PutUint64(b[chunkTable(b)+48:], 1<<40) }, reason.FormatCorrupt, "span"},
		"chunk off a block":      {rafstest.Options{}, func(b []byte) { le.PutUint64(b[chunkTable(b)+56:], 77) }, reason.FormatCorrupt, "at 77"},
		"chunk of no bytes":      {rafstest.Options{}, func(b []byte) { le.PutUint32(b[chunkTable(b)+44:], 0) }, reason.FormatCorrupt, "of 0 bytes"},
		"chunk over another":     {rafstest.Options{}, func(b []byte) { le.PutUint64(b[chunkTable(b)+56:], 4096) }, reason.FormatCorrupt, "span"},
		"chunk that shrank":      {rafstest.Options{}, func(b []byte) { le.PutUint32(b[chunkTable(b)+40:], 5) }, reason.FormatCorrupt, "as it is"},
		"encrypted chunk":        {rafstest.Options{}, func(b []byte) { b[chunkTable(b)+36] |= 4 }, reason.NotAttachable, "encrypted"},
		"other contents":         {batched, func(b []byte) { b[row+136]++ }, reason.FormatCorrupt, "table of contents"},
		"huge contents":          {batched, func(b []byte) { le.PutUint32(b[row+104:], 1<<31) }, reason.FormatCorrupt, "table of contents"},
		"list elsewhere":         {batched, func(b []byte) { le.PutUint64(b[row+112:], 1<<50) }, reason.FormatCorrupt, "list of chunks"},
		"list of other length":   {batched, func(b []byte) { le.PutUint64(b[row+128:], 1<<50) }, reason.FormatCorrupt, "list of chunks"},
		"list without header":    {batched, func(b []byte) { b[row+112]++ }, reason.FormatCorrupt, "header"},
		"fewer chunks":           {batched, func(b []byte) { b[row+72]-- }, reason.FormatCorrupt, "chunks, the bootstrap"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			img := rafstest.Write(t, smallLayers(t), tc.opts)
			tc.change(img.Bootstrap)
			_, err := nydus.Open(t.Context(), form(t, img), nil)
			if reason.Of(err) != tc.code || !strings.Contains(fmt.Sprint(err), tc.says) {
				t.Errorf("error %v (%s), want %s that says %q", err, reason.Of(err), tc.code, tc.says)
			}
		})
	}
}

func chunkTable(b []byte) int { return int(binary.LittleEndian.Uint64(b[rafstest.Extended+24:])) }

func TestBootstrapLayers(t *testing.T) {
	t.Parallel()
	img := rafstest.Write(t, smallLayers(t), rafstest.Options{})
	for name, tc := range map[string]struct {
		layer []byte
		code  reason.Code
		says  string
	}{
		"not compressed": {fsimage.Tar(t, map[string][]byte{"image/backend.json": nil, "image/image.boot": img.Bootstrap}), reason.None, ""},
		"empty":          {nil, reason.NotAttachable, "0 bytes"},
		"no tar":         {[]byte(strings.Repeat("x", 1000)), reason.FormatCorrupt, "bootstrap"},
		"no bootstrap":   {fsimage.Tar(t, map[string][]byte{"image/other": nil}), reason.FormatCorrupt, "no image/image.boot"},
		"cut":            {img.BootstrapLayer(t)[:len(img.BootstrapLayer(t))/2], reason.FormatCorrupt, "bootstrap"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := form(t, img)
			last := &f.Layers[len(f.Layers)-1]
			last.RangeReader, last.Descriptor.Digest = lazyblock.InMemory(tc.layer), digest.FromBytes(tc.layer)
			_, err := nydus.Open(t.Context(), f, nil)
			if reason.Of(err) != tc.code || !strings.Contains(fmt.Sprint(err), tc.says) {
				t.Errorf("error %v (%s), want %s that says %q", err, reason.Of(err), tc.code, tc.says)
			}
		})
	}
	f := form(t, img)
	f.Layers[len(f.Layers)-1].Descriptor.Digest = digest.FromString("another")
	if _, err := nydus.Open(t.Context(), f, nil); reason.Of(err) != reason.DigestMismatch {
		t.Errorf("another digest: %v", err)
	}
	if _, err := nydus.Open(t.Context(), lazyblock.Form{}, nil); reason.Of(err) != reason.ArtifactInvalid {
		t.Errorf("no layers: %v", err)
	}
}

// FuzzBootstrap reads whatever bootstrap over the blobs of a sound image.
func FuzzBootstrap(f *testing.F) {
	var sound []lazyblock.Form
	for _, opts := range []rafstest.Options{{ChunkSize: 4096}, {Compression: rafstest.Zstd, Batch: 8192, NoChunks: true}, {Zran: true}} {
		layers := [][]byte{fsimage.Tar(f, map[string][]byte{"a": bytes.Repeat([]byte("x"), 6000), "b": []byte("y")})}
		img := rafstest.Write(f, layers, opts)
		sound = append(sound, form(f, img))
		f.Add(img.Bootstrap)
	}
	f.Fuzz(func(t *testing.T, bootstrap []byte) {
		layer := fsimage.Tar(t, map[string][]byte{"image/image.boot": bootstrap})
		for _, form := range sound {
			form.Layers = slices.Clone(form.Layers)
			last := &form.Layers[len(form.Layers)-1]
			last.RangeReader, last.Descriptor.Digest = lazyblock.InMemory(layer), digest.FromBytes(layer)
			v, err := nydus.Open(t.Context(), form, nil)
			if err != nil {
				continue
			}
			for _, d := range v.Extra {
				p := make([]byte, min(d.Size(), 1<<16))
				if n, err := d.ReadRange(t.Context(), p, 0); n < len(p) && (err == nil || errors.Is(err, io.EOF)) {
					t.Errorf("%d of %d bytes: %v", n, len(p), err)
				}
			}
		}
	})
}

package overlaybd

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/referee-cri/referee/lazyblock"
)

func newFile(t testing.TB) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "layer"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestOutputDoesNotDependOnCores(t *testing.T) { //nolint:paralleltest // changes GOMAXPROCS
	for _, algo := range []Algorithm{LZ4, Zstd} {
		var first bytesReader
		for _, n := range []int{1, 2, 7} {
			before := runtime.GOMAXPROCS(n)
			rng := rand.New(rand.NewPCG(1, 1))
			blob := layerBlob(t, LayerOptions{VirtualSize: 1 << 30, Algorithm: algo}, randomWrites(rng, 15000)...)
			runtime.GOMAXPROCS(before)
			if first == nil {
				first = blob
			}
			if !bytes.Equal(first, blob) {
				t.Errorf("%s on %d cores: other bytes", algo, n)
			}
		}
	}
}

func TestOtherTarReadersFindThePayload(t *testing.T) {
	t.Parallel()
	blob := layerBlob(t, LayerOptions{VirtualSize: 1 << 20}, write{0, randomBytes(1, 9000/512*512)})
	tr := tar.NewReader(bytes.NewReader(blob))
	hdr, err := tr.Next()
	if err != nil {
		t.Fatal(err)
	}
	payload, err := io.ReadAll(tr)
	if err != nil {
		t.Fatal(err)
	}
	if hdr.Name != memberName || !bytes.HasPrefix(payload, []byte(zfileMagic)) || !bytes.Equal(payload, blob[tarPrefix:][:len(payload)]) {
		t.Errorf("member %q of %d bytes", hdr.Name, len(payload))
	}
	if _, err := tr.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("after the member: %v", err)
	}
	if want := roundUp(tarPrefix+len(payload), 512) + 1024; len(blob) != want {
		t.Errorf("blob of %d bytes, want %d", len(blob), want)
	}
}

func TestLSMTIsCommitted(t *testing.T) {
	t.Parallel()
	const uuid, parent = "01bb4fce-3eb1-b56b-05ad-f99504dafd31", "AAAAAAAA-0000-0000-0000-00000000000B"
	d := openDevice(t, layerBlob(t, LayerOptions{VirtualSize: 1 << 30, UUID: uuid, ParentUUID: parent, UserTag: "tag"},
		write{1 << 20, randomBytes(1, 512)}, write{0, randomBytes(2, 1024)}))
	l := d.layers[0]
	file := make([]byte, l.size)
	if err := scatter(t.Context(), []piece{{l, 0, file}}); err != nil {
		t.Fatal(err)
	}
	le := binary.LittleEndian
	if want := 4096 + 3*512 + 256*16 + 4096; len(file) != want {
		t.Fatalf("file of %d bytes, want %d", len(file), want)
	}
	trailer := file[len(file)-4096:]
	for name, tc := range map[string]struct{ got, want any }{
		"header flags":   {le.Uint32(file[28:]), uint32(0x07)},
		"header index":   {[2]uint64{le.Uint64(file[32:]), le.Uint64(file[40:])}, [2]uint64{}},
		"trailer flags":  {le.Uint32(trailer[28:]), uint32(0x06)},
		"trailer index":  {[2]uint64{le.Uint64(trailer[32:]), le.Uint64(trailer[40:])}, [2]uint64{4096 + 3*512, 256}},
		"virtual size":   {le.Uint64(trailer[48:]), uint64(1 << 30)},
		"uuid":           {string(file[56:93]), strings.ToUpper(uuid) + "\x00"},
		"parent":         {string(trailer[93:130]), parent + "\x00"},
		"version":        {file[130:134], []byte{0, 0, 1, 1}},
		"tag":            {string(file[134:138]), "tag\x00"},
		"first segment":  {decodeSegment(file[4096+3*512:]), newSegment(0, 2, 9)},
		"second segment": {decodeSegment(file[4096+3*512+16:]), newSegment(2048, 1, 8)},
		"padding":        {string(file[4096+3*512+32:][:16]), "\xff\xff\xff\xff\xff\xff\x03\x00" + strings.Repeat("\x00", 8)},
	} {
		if diff := cmp.Diff(tc.want, tc.got, cmp.AllowUnexported(segment{})); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestSegmentsAreCoalescedAsStockDoes(t *testing.T) {
	t.Parallel()
	type mapping struct{ start, sectors, moffset uint64 }
	for name, tc := range map[string]struct {
		writes []mapping // moffset unused
		want   []mapping
	}{
		"one run":             {[]mapping{{0, 100, 0}}, []mapping{{0, 100, 8}}},
		"neighbours":          {[]mapping{{0, 10, 0}, {10, 10, 0}}, []mapping{{0, 20, 8}}},
		"a hole":              {[]mapping{{0, 10, 0}, {11, 10, 0}}, []mapping{{0, 10, 8}, {11, 10, 18}}},
		"backwards":           {[]mapping{{10, 10, 0}, {0, 10, 0}}, []mapping{{0, 10, 18}, {10, 10, 8}}},
		"just short of limit": {[]mapping{{0, 16382, 0}}, []mapping{{0, 16382, 8}}},
		"the limit":           {[]mapping{{0, 16383, 0}}, []mapping{{0, 16320, 8}, {16320, 63, 16328}}},
		"beyond":              {[]mapping{{0, 16384, 0}}, []mapping{{0, 16320, 8}, {16320, 64, 16328}}},
		"far beyond":          {[]mapping{{0, 40000, 0}}, []mapping{{0, 16320, 8}, {16320, 16320, 16328}, {32640, 7360, 32648}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var writes []write
			for _, m := range tc.writes {
				writes = append(writes, write{int64(m.start) * sector, make([]byte, m.sectors*sector)})
			}
			d := openDevice(t, layerBlob(t, LayerOptions{VirtualSize: 1 << 30}, writes...))
			var got []mapping
			for _, s := range d.layers[0].segments {
				got = append(got, mapping{s.start(), s.sectors(), s.moffset()})
			}
			if diff := cmp.Diff(tc.want, got, cmp.AllowUnexported(mapping{})); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestEmptyLayer(t *testing.T) {
	t.Parallel()
	below := layerBlob(t, LayerOptions{VirtualSize: 1 << 20}, write{0, bytes.Repeat([]byte("x"), 512)})
	d := openDevice(t, below, layerBlob(t, LayerOptions{VirtualSize: 1 << 20}))
	p := make([]byte, 2)
	if _, err := d.ReadRange(t.Context(), p, 511); err != nil || string(p) != "x\x00" {
		t.Errorf("%q, %v", p, err)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string]LayerOptions{
		"no size":          {},
		"negative size":    {VirtualSize: -512},
		"half a sector":    {VirtualSize: 1000},
		"beyond the index": {VirtualSize: 1<<59 + 512},
		"block size":       {VirtualSize: 512, BlockSize: 65536},
		"algorithm":        {VirtualSize: 512, Algorithm: 9},
		"uuid":             {VirtualSize: 512, UUID: "01bb4fce3eb1b56b05adf99504dafd31"},
		"parent":           {VirtualSize: 512, ParentUUID: "01bb4fce-3eb1-b56b-05ad-f99504dafd3g"},
		"tag":              {VirtualSize: 512, UserTag: strings.Repeat("t", 256)},
	} {
		if _, err := NewLayerWriter(newFile(t), opts); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	f := newFile(t)
	if _, err := f.WriteString("x"); err != nil {
		t.Fatal(err)
	}
	if _, err := NewLayerWriter(f, LayerOptions{VirtualSize: 512}); err == nil {
		t.Error("a file with content: no error")
	}
}

func TestWrongWritesAreRefused(t *testing.T) {
	t.Parallel()
	start := func(t *testing.T) *LayerWriter {
		w, err := NewLayerWriter(newFile(t), LayerOptions{VirtualSize: 8192})
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	for name, wr := range map[string]struct {
		off int64
		n   int
	}{
		"odd offset": {1, 512}, "odd length": {0, 511}, "negative": {-512, 512},
		"over the end": {7680, 1024}, "beyond the end": {1 << 40, 512}, "far": {1<<63 - 512, 512},
	} {
		w := start(t)
		if _, err := w.WriteAt(make([]byte, wr.n), wr.off); err == nil {
			t.Errorf("%s: no error", name)
		}
		if _, err := w.Finish(t.Context()); err == nil {
			t.Errorf("%s: finishes all the same", name)
		}
	}

	w := start(t)
	for _, off := range []int64{512, 0} {
		if _, err := w.WriteAt(make([]byte, 1024), off); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Finish(t.Context()); err == nil || !strings.Contains(err.Error(), "sector 1 was written twice") {
		t.Errorf("a sector twice: %v", err)
	}

	w = start(t)
	if _, err := w.Finish(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := w.WriteAt(make([]byte, 512), 0); err == nil {
		t.Error("writes after Finish")
	}
	if _, err := w.Finish(t.Context()); err == nil {
		t.Error("finishes twice")
	}

	w = start(t)
	w.segments = make([]segment, writableSegments)
	if _, err := w.WriteAt(make([]byte, 512), 1024); err == nil {
		t.Error("takes more segments than readers accept")
	}

	w = start(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := w.Finish(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestFullDiskIsAnError(t *testing.T) {
	t.Parallel()
	f, err := os.OpenFile("/dev/full", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("no full disk to write to: %v", err)
	}
	defer f.Close()
	w, err := NewLayerWriter(f, LayerOptions{VirtualSize: 64 << 20})
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.WriteAt(make([]byte, 8<<20), 0)
	if _, ferr := w.Finish(t.Context()); err == nil || ferr == nil {
		t.Errorf("write: %v, finish: %v", err, ferr)
	}
}

func TestGroupsThatOtherReadersRefuse(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		blockSize int
		lengths   []uint16
		ok        bool
	}{
		"worst LZ4":            {4096, repeat(4118, 64), true},
		"last of group is out": {32768, []uint16{65534, 65535, 65534}, true},
		"too long":             {32768, []uint16{100, 100, 65535}, false},
		"sum too long":         {16384, []uint16{30000, 30000, 5535, 1}, false},
		"sum short enough":     {16384, []uint16{30000, 30000, 5534, 60000}, true},
	} {
		w, err := newBlockWriter(newFile(t), 0, LZ4, tc.blockSize)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.store(&compressed{lengths: tc.lengths}); (err == nil) != tc.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func repeat(n uint16, times int) (all []uint16) {
	for range times {
		all = append(all, n)
	}
	return all
}

func TestUUIDFromChainID(t *testing.T) {
	t.Parallel()
	for digest, want := range map[string]string{
		"sha256:01bb4fce3eb1b56b05adf99504dafd31907a5aadac736e36b27595c8b92f07f1": "01BB4FCE-3EB1-B56B-05AD-F99504DAFD31",
		"sha256:01bb":                       "",
		"":                                  "",
		"sha256:" + strings.Repeat("z", 64): "",
		"01bb4fce3eb1b56b05adf99504dafd31907a5aad": "",
	} {
		if got := UUIDFromChainID(digest); got != want {
			t.Errorf("%q gives %q, want %q", digest, got, want)
		}
	}
}

var _ lazyblock.RangeReader = bytesReader(nil)

package overlaybd

import (
	"archive/tar"
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/referee-cri/referee/internal/reason"
)

// expectGood checks the content of goodLSMT's disk.
func expectGood(t *testing.T, blob []byte) {
	t.Helper()
	d := openDevice(t, bytesReader(blob))
	want := make([]byte, 1<<20)
	copy(want[16*sector:], goodLSMT().data)
	got := make([]byte, d.Size())
	if _, err := d.ReadRange(t.Context(), got, 0); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(want, got) {
		t.Error("the disk has other bytes")
	}
}

func TestEveryShapeOfALayerReads(t *testing.T) {
	t.Parallel()
	lsmt := func(change func(*forgedLSMT)) []byte {
		f := goodLSMT()
		change(f)
		return f.file()
	}
	zfile := func(change func(*forgedZFile)) []byte {
		z := goodZFile()
		change(z)
		return z.file(t)
	}
	plainTar := func(payload []byte) []byte {
		var buf bytes.Buffer
		tw := tar.NewWriter(&buf)
		if err := tw.WriteHeader(&tar.Header{Name: memberName, Mode: 0o444, Size: int64(len(payload))}); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write(payload); err != nil {
			t.Fatal(err)
		}
		if err := tw.Close(); err != nil {
			t.Fatal(err)
		}
		return buf.Bytes()
	}
	// A PAX body of two blocks, of which stock would read the first.
	longPAX := func(payload []byte) []byte {
		head := tarHead(int64(len(payload)))
		record := paxRecord("comment", strings.Repeat("c", 700)) + paxRecord("size", fmt.Sprint(len(payload)))
		pax := make([]byte, tarBlock)
		copy(pax, paxName)
		copy(pax[sizeOffset:], fmt.Sprintf("%11o ", len(record)))
		sealTarHeader(pax, 'x')
		return slices.Concat(pax, []byte(record), make([]byte, roundUp(len(record), tarBlock)-len(record)),
			head[2*tarBlock:], payload, tarTail(int64(len(payload))))
	}
	garbage := func(flags byte) func([]byte) {
		return func(p []byte) {
			copy(p[28:32], "\xde\xad\xbe\xef")                                // digest
			copy(p[32:40], []byte{flags, 0x0b, 0x64, 0xa4, 0xfe, 0x7f, 0, 0}) // flags with a piece of the stack
			p[32] |= 0x40
			copy(p[68:72], "\x01\x02\x03\x04")
			copy(p[200:], "uninitialised")
		}
	}

	for name, blob := range map[string][]byte{
		"bare LSMT, committed":         goodLSMT().file(),
		"bare LSMT, sealed append":     lsmt(func(f *forgedLSMT) { f.headerFlags = 0x03 }),
		"bare LSMT, sealed sparse":     lsmt(func(f *forgedLSMT) { f.headerFlags, f.trailer.flags = 0x13, 0x16 }),
		"LSMT in tar":                  inTar(goodLSMT().file()),
		"bare ZFile":                   goodZFile().file(t),
		"ZFile in tar":                 inTar(goodZFile().file(t)),
		"ZFile in plain tar":           plainTar(goodZFile().file(t)),
		"ZFile in tar, long PAX":       longPAX(goodZFile().file(t)),
		"footer of two tars":           append(inTar(goodZFile().file(t)), make([]byte, 1024)...),
		"garbage after the payload":    append(inTar(goodZFile().file(t)), "anything at all"...),
		"index found by trailer":       zfile(func(z *forgedZFile) { z.inHead = false }),
		"index found by trailer, tar":  inTar(zfile(func(z *forgedZFile) { z.inHead = false })),
		"no CRCs":                      zfile(func(z *forgedZFile) { z.verify = false }),
		"zstd":                         zfile(func(z *forgedZFile) { z.algo = Zstd }),
		"zstd without CRCs":            zfile(func(z *forgedZFile) { z.algo, z.verify = Zstd, false }),
		"a block larger than the file": zfile(func(z *forgedZFile) { z.block = 65536 }),
		"odd block size":               zfile(func(z *forgedZFile) { z.block = 1000 }),
		"space for a dictionary":       zfile(func(z *forgedZFile) { z.dict = 777 }),
		"uninitialised flags and tail": zfile(func(z *forgedZFile) {
			z.inHead = false
			z.bend = func(h, tr []byte) { garbage(0x43)(h); garbage(0x46)(tr) }
		}),
		"index rounded up, no padding entries": lsmt(func(f *forgedLSMT) {
			f.segments, f.trailer.indexEntries = f.segments[:1], 1
		}),
		"virtual size not of whole sectors": lsmt(func(f *forgedLSMT) { f.trailer.virtualSize += 100 }),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			expectGood(t, blob)
		})
	}
}

func TestIncompressibleBlocksBeyondStocksReader(t *testing.T) {
	t.Parallel()
	noise := randomBytes(1, 300<<10)
	lsmt := goodLSMT()
	lsmt.data = noise
	lsmt.trailer.indexOffset = lsmtHeaderSize + uint64(len(noise))
	lsmt.segments[0] = newSegment(16, uint64(len(noise)/sector), firstData)
	lsmt.segments[1] = segment{1024 | 2<<offsetBits, firstData | zeroedBit}
	for _, algo := range []Algorithm{LZ4, Zstd} {
		z := goodZFile()
		z.content, z.block, z.algo = lsmt.file(), 65536, algo
		d := openDevice(t, bytesReader(z.file(t)))
		got := make([]byte, len(noise))
		if _, err := d.ReadRange(t.Context(), got, 16*sector); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(noise, got) {
			t.Errorf("%s: other bytes", algo)
		}
	}
}

func TestVirtualSizeIsTheTopmostThatIsGiven(t *testing.T) {
	t.Parallel()
	layer := func(size uint64) bytesReader {
		f := goodLSMT()
		f.trailer.virtualSize = size
		return f.file()
	}
	d := openDevice(t, layer(1<<20), layer(2<<20), layer(0))
	if d.Size() != 2<<20 {
		t.Errorf("size is %d", d.Size())
	}
	first, err := d.Prefix(1, "first")
	if err != nil || first.Size() != 1<<20 || first.ID() != "first" || first.Layers() != 1 {
		t.Errorf("the first layer alone is %+v, %v", first, err)
	}
	for _, n := range []int{-1, 0, 4} {
		if _, err := d.Prefix(n, "x"); err == nil {
			t.Errorf("prefix of %d layers of 3 opens", n)
		}
	}
	if _, err := Open(t.Context(), nil, "x"); reason.Of(err) != reason.FormatCorrupt {
		t.Errorf("no layers: %v", err)
	}
}

func TestStoredNamesTheBytesThatAReadFetches(t *testing.T) {
	t.Parallel()
	zfile := goodZFile().file(t)
	lsmt := goodLSMT().file()
	d := openDevice(t, bytesReader(inTar(zfile)), bytesReader(inTar(lsmt)))
	hdr, err := parseZFileHeader(zfile)
	if err != nil {
		t.Fatal(err)
	}
	type at struct{ off, n int64 }
	blocks := at{tarPrefix + zfileHeaderSize, int64(hdr.indexOffset) - zfileHeaderSize}
	for name, tc := range map[string]struct {
		layer   int
		in, out at
	}{
		"whole ZFile":      {0, at{0, 1 << 40}, blocks},
		"bare LSMT":        {1, at{4096, 100}, at{tarPrefix + 4096, 100}},
		"clipped":          {1, at{int64(len(lsmt)) - 10, 100}, at{tarPrefix + int64(len(lsmt)) - 10, 10}},
		"beyond":           {1, at{int64(len(lsmt)), 1}, at{}},
		"nothing":          {0, at{0, 0}, at{}},
		"before":           {0, at{-1, 5}, at{}},
		"no such layer":    {2, at{0, 5}, at{}},
		"no layer below 0": {-1, at{0, 5}, at{}},
	} {
		if off, n := d.Stored(tc.layer, tc.in.off, tc.in.n); off != tc.out.off || n != tc.out.n {
			t.Errorf("%s: %d bytes at %d, want %d at %d", name, n, off, tc.out.n, tc.out.off)
		}
	}
}

package overlaybd

import (
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/lazyblock"
)

// expectRefused opens a blob and wants the error to be about corruption.
func expectRefused(t *testing.T, blob lazyblock.RangeReader, about string) {
	t.Helper()
	_, err := Open(t.Context(), []lazyblock.RangeReader{blob}, "hostile")
	if reason.Of(err) != reason.FormatCorrupt {
		t.Fatalf("got %v, want reason %s", err, reason.FormatCorrupt)
	}
	if !strings.Contains(err.Error(), about) {
		t.Errorf("error %q says nothing of %q", err, about)
	}
}

func TestFalseLSMTIsRefused(t *testing.T) {
	t.Parallel()
	le := binary.LittleEndian
	for name, tc := range map[string]struct {
		about string
		bend  func(*forgedLSMT)
	}{
		"trailer magic":           {"no LSMT magic", func(f *forgedLSMT) { f.bend = func(p []byte) []byte { p[len(p)-4096]++; return p } }},
		"second magic":            {"neither ZFile nor LSMT", func(f *forgedLSMT) { f.bend = func(p []byte) []byte { p[20]++; return p } }},
		"header struct size":      {"struct", func(f *forgedLSMT) { f.bend = func(p []byte) []byte { p[24]++; return p } }},
		"trailer struct size":     {"struct", func(f *forgedLSMT) { f.bend = func(p []byte) []byte { p[len(p)-4096+24]++; return p } }},
		"header is a trailer":     {"flags", func(f *forgedLSMT) { f.headerFlags = 0x06 }},
		"header of an index file": {"flags", func(f *forgedLSMT) { f.headerFlags = 0x05 }},
		"trailer is a header":     {"flags", func(f *forgedLSMT) { f.trailer.flags = 0x07 }},
		"trailer of an index":     {"flags", func(f *forgedLSMT) { f.trailer.flags = 0x04 }},
		"trailer not sealed":      {"flags", func(f *forgedLSMT) { f.trailer.flags = 0x02 }},
		"no virtual size":         {"virtual size", func(f *forgedLSMT) { f.trailer.virtualSize = 0 }},
		"virtual size too large":  {"virtual size", func(f *forgedLSMT) { f.trailer.virtualSize = 1<<59 + 1 }},
		"virtual size negative":   {"virtual size", func(f *forgedLSMT) { f.trailer.virtualSize = 1 << 63 }},
		"absurd segment count":    {"segments", func(f *forgedLSMT) { f.trailer.indexEntries = 1 << 62 }},
		"overflowing count":       {"segments", func(f *forgedLSMT) { f.trailer.indexEntries = 1 << 60 }},
		"a million and one":       {"more than 1000000", func(f *forgedLSMT) { f.trailer.indexEntries = 1_000_001 }},
		"more than there is room": {"segments", func(f *forgedLSMT) { f.trailer.indexEntries = 33 }},
		"index within the header": {"segments", func(f *forgedLSMT) { f.trailer.indexOffset = 512 }},
		"index beyond trailer":    {"segments", func(f *forgedLSMT) { f.trailer.indexOffset = 1 << 20 }},
		"index offset negative":   {"segments", func(f *forgedLSMT) { f.trailer.indexOffset = 1<<64 - 512 }},
		"index offset odd":        {"segments", func(f *forgedLSMT) { f.trailer.indexOffset++ }},
		"empty segment":           {"empty", func(f *forgedLSMT) { f.segments[0] = newSegment(16, 0, firstData) }},
		"segment beyond any disk": {"beyond any disk", func(f *forgedLSMT) { f.segments[1] = newSegment(invalidOffset-1, 8, firstData) }},
		"segments out of order":   {"begins before", func(f *forgedLSMT) { slices.Reverse(f.segments) }},
		"segments overlap":        {"begins before", func(f *forgedLSMT) { f.segments[1] = newSegment(23, 1, firstData) }},
		"data in the header":      {"outside the data", func(f *forgedLSMT) { f.segments[0] = newSegment(16, 8, firstData-1) }},
		"data beyond the end":     {"outside the data", func(f *forgedLSMT) { f.segments[0] = newSegment(16, 8, firstData+1) }},
		"data far beyond the end": {"outside the data", func(f *forgedLSMT) { f.segments[0] = newSegment(16, 8, 1<<55-1) }},
		"zeroed in the header":    {"outside the data", func(f *forgedLSMT) { f.segments[1].hi = 7 | zeroedBit }},
		"zeroed beyond the end":   {"outside the data", func(f *forgedLSMT) { f.segments[1].hi = 17 | zeroedBit }},
		"not there":               {"LSMT file", func(f *forgedLSMT) { f.bend = func(p []byte) []byte { return p[:8191] } }},
		"index for data": {"outside the data", func(f *forgedLSMT) {
			f.trailer.indexOffset = lsmtHeaderSize // the data is read as index
			f.trailer.indexEntries = 1
			le.PutUint64(f.data, 1<<50)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := goodLSMT()
			tc.bend(f)
			expectRefused(t, bytesReader(f.file()), tc.about)
		})
	}
}

func TestFalseZFileIsRefused(t *testing.T) {
	t.Parallel()
	header := func(change func(*zfileHeader)) func(*forgedZFile) {
		return func(z *forgedZFile) { z.header = change }
	}
	trailer := func(change func(*zfileHeader)) func(*forgedZFile) {
		return func(z *forgedZFile) { z.inHead, z.trailer = false, change }
	}
	for name, tc := range map[string]struct {
		about string
		bend  func(*forgedZFile)
	}{
		"header digest":      {"digest", func(z *forgedZFile) { z.bend = func(h, _ []byte) { h[400] = 1 } }},
		"trailer digest":     {"digest", func(z *forgedZFile) { z.inHead = false; z.bend = func(_, tr []byte) { tr[400] = 1 } }},
		"struct size":        {"struct", func(z *forgedZFile) { z.bend = func(h, _ []byte) { h[24]++ } }},
		"trailer magic":      {"magic", func(z *forgedZFile) { z.inHead = false; z.bend = func(_, tr []byte) { tr[0]++ } }},
		"header no header":   {"trailer", header(func(h *zfileHeader) { h.flags &^= zfileIsHeader })},
		"compressed index":   {"compressed", header(func(h *zfileHeader) { h.flags |= zfileIndexComp })},
		"compressed index 2": {"compressed", trailer(func(h *zfileHeader) { h.flags |= zfileIndexComp })},
		"trailer is header":  {"without a trailer", trailer(func(h *zfileHeader) { h.flags |= zfileIsHeader })},
		"trailer not sealed": {"without a trailer", trailer(func(h *zfileHeader) { h.flags &^= zfileSealed })},
		"trailer not data":   {"without a trailer", trailer(func(h *zfileHeader) { h.flags &^= zfileIsData })},
		"block size 0":       {"block size", header(func(h *zfileHeader) { h.blockSize = 0 })},
		"block size huge":    {"block size", header(func(h *zfileHeader) { h.blockSize = 1 << 31 })},
		"other block size":   {"blocks of", header(func(h *zfileHeader) { h.blockSize *= 2 })},
		"algorithm 0":        {"unknown compression", header(func(h *zfileHeader) { h.algorithm = 0 })},
		"algorithm 3":        {"unknown compression", header(func(h *zfileHeader) { h.algorithm = 3 })},
		"wrong algorithm":    {"expand", header(func(h *zfileHeader) { h.algorithm = Zstd })},
		"a dictionary":       {"dictionary", header(func(h *zfileHeader) { h.useDict = 1 })},
		"dictionary size":    {"blocks end", header(func(h *zfileHeader) { h.dictSize = 16 })},
		"dictionary huge":    {"index of", header(func(h *zfileHeader) { h.dictSize = 1<<32 - 1 })},
		"no blocks":          {"0 blocks", header(func(h *zfileHeader) { h.indexEntries = 0 })},
		"absurd blocks":      {"blocks", header(func(h *zfileHeader) { h.indexEntries = 1 << 62 })},
		"absurd but agreed": {"blocks", header(func(h *zfileHeader) {
			h.indexEntries = 1 << 40
			h.originalSize = 1 << 52
		})},
		"no room for index":  {"index of", header(func(h *zfileHeader) { h.indexEntries, h.originalSize = 1<<20, 1<<32 })},
		"one block more":     {"blocks", header(func(h *zfileHeader) { h.indexEntries++ })},
		"empty file":         {"blocks of", header(func(h *zfileHeader) { h.originalSize = 0 })},
		"longer file":        {"blocks of", header(func(h *zfileHeader) { h.originalSize += 4096 })},
		"slightly shorter":   {"expand", header(func(h *zfileHeader) { h.originalSize -= 100 })},
		"index offset small": {"index of", header(func(h *zfileHeader) { h.indexOffset = 100 })},
		"index offset large": {"index of", header(func(h *zfileHeader) { h.indexOffset = 1 << 63 })},
		"index elsewhere":    {"ZFile index", header(func(h *zfileHeader) { h.indexOffset -= 4 })},
		"index CRC":          {"CRC", header(func(h *zfileHeader) { h.indexCRC++ })},
		"verify off":         {"expand", header(func(h *zfileHeader) { h.verify = false })},
		"block of CRC alone": {"stored in", func(z *forgedZFile) { z.index = func(n []uint32) []uint32 { n[0] = 4; return n } }},
		"block of nothing": {"stored in", func(z *forgedZFile) {
			z.verify = false
			z.index = func(n []uint32) []uint32 { n[0] = 0; return n }
		}},
		"block too long": {"stored in", func(z *forgedZFile) { z.index = func(n []uint32) []uint32 { n[0] = 1 << 31; return n } }},
		"block shifted":  {"expand", func(z *forgedZFile) { z.index = func(n []uint32) []uint32 { n[0]++; n[1]--; return n } }},
		"blocks shorter": {"blocks end", func(z *forgedZFile) { z.index = func(n []uint32) []uint32 { n[1]--; return n } }},
		"content is not LSMT": {"no LSMT magic", func(z *forgedZFile) {
			z.content = make([]byte, 64<<10)
		}},
		"content is short": {"LSMT file of", func(z *forgedZFile) { z.content = z.content[:8000] }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			z := goodZFile()
			tc.bend(z)
			expectRefused(t, bytesReader(inTar(z.file(t))), tc.about)
		})
	}
}

func TestFalseTarIsRefused(t *testing.T) {
	t.Parallel()
	payload := goodZFile().file(t)
	// pax is a tar whose PAX body is record.
	pax := func(record string) []byte {
		file := inTar(payload)
		clear(file[tarBlock : 2*tarBlock])
		copy(file[tarBlock:], record)
		copy(file[sizeOffset:], "         77 ")
		sealTarHeader(file[:tarBlock], 'x')
		return file
	}
	member := func(change func(h []byte)) []byte {
		file := inTar(payload)
		h := file[2*tarBlock : 3*tarBlock]
		change(h)
		return file
	}
	placeholder := func() []byte {
		file := inTar(payload)
		clear(file[magicOffset:265])
		copy(file[2*tarBlock:], "overlaybd.new\x00\x00\x00")
		copy(file[2*tarBlock+magicOffset:], "xxtar\x00xx")
		clear(file[3*tarBlock:])
		return file
	}
	for name, tc := range map[string]struct {
		about string
		file  []byte
	}{
		"writer at work":         {"never finished", placeholder()},
		"second header at work":  {"never finished", member(func(h []byte) { copy(h[magicOffset:], "xxtar\x00xx") })},
		"second checksum":        {"checksum", member(func(h []byte) { h[0]++ })},
		"no second header":       {"checksum", member(func(h []byte) { clear(h) })},
		"size beyond the blob":   {"does not fit", pax(paxRecord("size", "99999999"))},
		"size beyond everything": {"does not fit", pax(paxRecord("size", "9223372036854775807"))},
		"size overflows":         {"bad size", pax(paxRecord("size", "9223372036854775808"))},
		"size negative":          {"bad size", pax(paxRecord("size", "-5"))},
		"size no number":         {"bad size", pax(paxRecord("size", "ten"))},
		"size absent":            {"does not fit", pax(paxRecord("path", "x"))},
		"record too long":        {"bad record", pax("99 size=10\n")},
		"record length negative": {"bad record", pax("-9 size=10\n")},
		"record without length":  {"bad record", pax("size=10\n")},
		"record without newline": {"bad record", pax("11 size=10x")},
		"record without value":   {"no value", pax("6 abc\n")},
		"record length only":     {"bad record", pax("2 ")},
		"huge PAX body": {"extension header has", func() []byte {
			f := inTar(payload)
			copy(f[sizeOffset:], "77777777777 ")
			sealTarHeader(f[:512], 'x')
			return f
		}()},
		"bad octal": {"octal", func() []byte {
			f := inTar(payload)
			copy(f[sizeOffset:], "        9x9 ")
			sealTarHeader(f[:512], 'x')
			return f
		}()},
		"base 256 size too large": {"too large", member(func(h []byte) {
			copy(h[sizeOffset:], "\x80\x7f\x7f\x7f\x7f\x7f\x7f\x7f\x7f\x7f\x7f\x7f")
			sealTarHeader(h, '0')
		})},
		"extensions without end": {"extension headers", func() []byte {
			var f []byte
			for range 9 {
				h := make([]byte, tarBlock)
				sealTarHeader(h, 'L')
				f = append(f, h...)
			}
			return append(f, payload...)
		}()},
		"checksum of the first": {"neither", func() []byte { f := inTar(payload); f[0]++; return f }()},
		"nothing":               {"blob of 0", nil},
		"less than a header":    {"blob ends", make([]byte, 511)},
		"zeros":                 {"neither", make([]byte, 1<<20)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			expectRefused(t, bytesReader(tc.file), tc.about)
		})
	}
}

func TestTruncationIsRefused(t *testing.T) {
	t.Parallel()
	zfile := goodZFile().file(t)
	hdr, err := parseZFileHeader(zfile)
	if err != nil {
		t.Fatal(err)
	}
	index := tarPrefix + int(hdr.indexOffset)
	end := tarPrefix + len(zfile)
	for name, tc := range map[string]struct {
		file []byte
		cuts []int
	}{
		"tar":  {inTar(zfile), []int{512, 1024, 1536, 1536 + 512, index, index + 4, end - 512, end}},
		"LSMT": {goodLSMT().file(), []int{4096, 8192, 8192 + 48, 8192 + 512, 8192 + 512 + 4096}},
		"ZFile found by trailer": {
			func() []byte { z := goodZFile(); z.inHead = false; return z.file(t) }(),
			[]int{512, int(hdr.indexOffset), len(zfile) - 512, len(zfile)},
		},
	} {
		for _, cut := range tc.cuts {
			for _, n := range []int{cut - 1, cut, cut + 1} {
				if n >= min(len(tc.file), tc.cuts[len(tc.cuts)-1]) {
					continue
				}
				_, err := Open(t.Context(), []lazyblock.RangeReader{bytesReader(tc.file[:n])}, "cut")
				if reason.Of(err) != reason.FormatCorrupt {
					t.Errorf("%s cut at %d: %v", name, n, err)
				}
			}
		}
	}
}

// liar claims a size and has nothing.
type liar struct {
	bytesReader
	size int64
}

func (l liar) Size() int64 { return l.size }

func TestBlobShorterThanItSaysIsRefused(t *testing.T) {
	t.Parallel()
	blob := bytesReader(inTar(goodZFile().file(t)))
	for _, size := range []int64{-1, int64(len(blob)) + 1, 1 << 40, 1<<63 - 1} {
		expectRefused(t, liar{blob, size}, "")
	}
}

// TestCountsAreRefusedBeforeAllocating opens blobs that claim, consistently,
// to be enormous, and have the size that goes with the claim.
func TestCountsAreRefusedBeforeAllocating(t *testing.T) { //nolint:paralleltest // counts allocations
	z := goodZFile()
	z.header = func(h *zfileHeader) {
		h.indexEntries, h.originalSize = maxBlocks, maxBlocks*4096
	}
	blob := liar{bytesReader(z.file(t)), 1 << 40}
	f := goodLSMT()
	f.trailer.indexEntries = maxLayerSegments
	f.trailer.indexOffset = 1 << 30
	var allocated testing.BenchmarkResult
	for _, b := range []lazyblock.RangeReader{blob, liar{bytesReader(f.file()), 1 << 40}} {
		allocated = testing.Benchmark(func(tb *testing.B) {
			tb.ReportAllocs()
			for tb.Loop() {
				if _, err := Open(tb.Context(), []lazyblock.RangeReader{b}, "huge"); err == nil {
					tb.Fatal("opens")
				}
			}
		})
		if n := allocated.AllocedBytesPerOp(); n > 3*maxTailGuess {
			t.Errorf("%d bytes allocated to find out", n)
		}
	}
}

func TestTooManyLayersAndSegmentsAreRefused(t *testing.T) {
	t.Parallel()
	one := bytesReader(goodLSMT().file())
	layers := make([]lazyblock.RangeReader, maxLayers+1)
	for i := range layers {
		layers[i] = one
	}
	if _, err := Open(t.Context(), layers, "x"); reason.Of(err) != reason.FormatCorrupt {
		t.Errorf("256 layers: %v", err)
	}
	d := openDevice(t, layers[:maxLayers]...)
	if got := d.segments[0].layer(); got != maxLayers-1 {
		t.Errorf("the top layer is %d", got)
	}
	limits := newOpenLimits()
	if err := errors.Join(limits.addBlocks(maxStackBlocks), limits.addSegments(maxStackSegments)); err != nil {
		t.Error(err)
	}
	if reason.Of(limits.addBlocks(1)) != reason.FormatCorrupt || reason.Of(limits.addSegments(1)) != reason.FormatCorrupt {
		t.Error("a stack may have any number of blocks and segments")
	}
}

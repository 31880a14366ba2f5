package overlaybd

import (
	"bytes"
	"testing"

	"github.com/referee-cri/referee/lazyblock"
)

// fuzzRead is how much of a device a fuzz target reads.
const fuzzRead = 1 << 20

// openAndRead opens a blob of a fuzzer and, if it opens, checks that two ways
// of reading agree.
func openAndRead(t *testing.T, blobs ...lazyblock.RangeReader) {
	t.Helper()
	d, err := Open(t.Context(), blobs, "fuzz")
	if err != nil {
		return
	}
	left := int64(fuzzRead)
	for off, n := range d.Data() {
		if off < 0 || n <= 0 || off+n > d.Size() {
			t.Fatalf("data of %d bytes at %d on a disk of %d", n, off, d.Size())
		}
		n = min(n, left)
		left -= n
		whole := make([]byte, n)
		if _, err := d.ReadRange(t.Context(), whole, off); err == nil {
			part := make([]byte, min(n, 700))
			if _, err := d.ReadRange(t.Context(), part, off+n-int64(len(part))); err != nil || !bytes.HasSuffix(whole, part) {
				t.Fatalf("the end of a range reads as something else: %v", err)
			}
		}
		if left == 0 {
			return
		}
	}
}

func FuzzTarPayload(f *testing.F) {
	f.Add(inTar([]byte("payload")))
	f.Add(append(tarHead(5), "12345"...))
	f.Add(make([]byte, 2048))
	f.Fuzz(func(t *testing.T, blob []byte) {
		s, err := tarPayload(t.Context(), bytesReader(blob))
		if err == nil && (s.off < 0 || s.len <= 0 && len(blob) > 0 || s.end() > int64(len(blob))) {
			t.Fatalf("payload %+v of %d bytes", s, len(blob))
		}
	})
}

func FuzzLSMT(f *testing.F) {
	f.Add(goodLSMT().file())
	sparse := goodLSMT()
	sparse.headerFlags, sparse.trailer.flags = 0x13, 0x16
	f.Add(sparse.file())
	f.Fuzz(func(t *testing.T, file []byte) {
		// Twice the same, so that merging has something to do.
		openAndRead(t, bytesReader(file), bytesReader(goodLSMT().file()), bytesReader(file))
	})
}

// FuzzZFile bends the fields of a ZFile whose digests are made right again.
func FuzzZFile(f *testing.F) {
	f.Add(uint64(zfileHeaderDone), uint64(512), uint64(4), uint64(12800), uint32(4096), byte(LZ4), byte(0), uint32(0), true, []byte{}, uint16(0))
	f.Add(uint64(zfileIsHeader), uint64(512), uint64(4), uint64(12800), uint32(4096), byte(Zstd), byte(0), uint32(7), false, []byte{9, 9}, uint16(600))
	f.Fuzz(func(t *testing.T, flags, offset, entries, size uint64, block uint32, algo, useDict byte, dict uint32, verify bool, patch []byte, at uint16) {
		z := goodZFile()
		z.verify, z.inHead = verify, flags&zfileOverwrite != 0
		if algo == byte(Zstd) {
			z.algo = Zstd
		}
		bend := func(h *zfileHeader) {
			h.flags ^= flags &^ (zfileOverwrite | zfileIsHeader)
			h.indexOffset ^= offset
			h.indexEntries ^= entries
			h.originalSize ^= size
			h.blockSize ^= block
			h.useDict ^= useDict
			h.dictSize ^= dict
		}
		z.header, z.trailer = bend, bend
		file := z.file(t)
		copy(file[min(int(at), len(file)):], patch)
		openAndRead(t, bytesReader(file))
	})
}

func FuzzOpen(f *testing.F) {
	f.Add([]byte(inTar(goodZFile().file(f))), []byte(goodLSMT().file()))
	zstd := goodZFile()
	zstd.algo, zstd.verify, zstd.inHead = Zstd, false, false
	f.Add([]byte(zstd.file(f)), []byte(inTar(goodLSMT().file())))
	f.Fuzz(func(t *testing.T, lower, upper []byte) {
		openAndRead(t, bytesReader(lower), bytesReader(upper))
	})
}

// FuzzDecode gives stored blocks of any content to both decoders.
func FuzzDecode(f *testing.F) {
	for _, algo := range []Algorithm{LZ4, Zstd} {
		encoders, err := newEncoders(algo, 1)
		if err != nil {
			f.Fatal(err)
		}
		block, err := encoders[0].encode(nil, bytes.Repeat([]byte("block "), 100))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(block, uint16(600))
	}
	f.Fuzz(func(t *testing.T, stored []byte, size uint16) {
		for _, algo := range []Algorithm{LZ4, Zstd} {
			d, err := newDecoder(algo)
			if err != nil {
				t.Fatal(err)
			}
			// What lies behind the block must stay as it is.
			room := bytes.Repeat([]byte{0xEE}, int(size)+64)
			if err := d.decode(room[:size:size], stored); err == nil && size > 0 && len(stored) == 0 {
				t.Fatalf("%s: nothing decodes to %d bytes", algo, size)
			}
			if !bytes.Equal(room[size:], bytes.Repeat([]byte{0xEE}, 64)) {
				t.Fatalf("%s: wrote beyond its block", algo)
			}
		}
	})
}

package overlaybd

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// write is one WriteAt of a layer under test.
type write struct {
	off  int64
	data []byte
}

// layerBlob writes a layer and returns the blob.
func layerBlob(t testing.TB, opts LayerOptions, writes ...write) bytesReader {
	t.Helper()
	path := filepath.Join(t.TempDir(), "layer")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w, err := NewLayerWriter(f, opts)
	if err != nil {
		t.Fatal(err)
	}
	for _, wr := range writes {
		if _, err := w.WriteAt(wr.data, wr.off); err != nil {
			t.Fatal(err)
		}
	}
	size, err := w.Finish(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if int64(len(raw)) != size {
		t.Fatalf("Finish says %d bytes, the file has %d", size, len(raw))
	}
	return raw
}

// forgedLSMT is an LSMT file of which any part can be false.
type forgedLSMT struct {
	headerFlags uint32
	trailer     lsmtHeader
	data        []byte
	segments    []segment
	// bend changes the finished bytes.
	bend func(file []byte) []byte
}

// goodLSMT has eight sectors of data at sector 16 of the disk, and hides two
// sectors at 32.
func goodLSMT() *forgedLSMT {
	data := make([]byte, 8*sector)
	for i := range data {
		data[i] = byte(i * 7)
	}
	return &forgedLSMT{
		headerFlags: lsmtCommittedHeader,
		trailer:     lsmtHeader{flags: lsmtTrailer, indexOffset: (firstData + 8) * sector, indexEntries: 3, virtualSize: 1 << 20},
		data:        data,
		segments: []segment{
			newSegment(16, 8, firstData),
			{32 | 2<<offsetBits, (firstData + 8) | zeroedBit},
			{lo: invalidOffset},
		},
	}
}

func (f *forgedLSMT) file() []byte {
	file := (&lsmtHeader{flags: f.headerFlags, virtualSize: f.trailer.virtualSize}).encode()
	file = append(file, f.data...)
	for _, s := range f.segments {
		file = s.appendTo(file)
	}
	file = append(file, make([]byte, roundUp(len(file), sector)-len(file))...)
	file = append(file, f.trailer.encode()...)
	if f.bend != nil {
		file = f.bend(file)
	}
	return file
}

// forgedZFile is a ZFile of which any part can be false.
type forgedZFile struct {
	content []byte
	algo    Algorithm
	block   int
	dict    int
	verify  bool
	inHead  bool // index fields in the header, as finished writers do
	// header and trailer change the fields before the digest is taken.
	header, trailer func(*zfileHeader)
	index           func([]uint32) []uint32
	// bend changes the finished header and trailer after the digest was taken.
	bend func(header, trailer []byte)
}

func (z *forgedZFile) file(t testing.TB) []byte {
	t.Helper()
	encoders, err := newEncoders(z.algo, 1)
	if err != nil {
		t.Fatal(err)
	}
	blocks := make([]byte, z.dict)
	var lengths []uint32
	for rest := z.content; len(rest) > 0; {
		block := rest[:min(z.block, len(rest))]
		rest = rest[len(block):]
		begin := len(blocks)
		if blocks, err = encoders[0].encode(blocks, block); err != nil {
			t.Fatal(err)
		}
		if z.verify {
			blocks = binary.LittleEndian.AppendUint32(blocks, rawCRC(blockSeed, blocks[begin:]))
		}
		lengths = append(lengths, uint32(len(blocks)-begin))
	}
	if z.index != nil {
		lengths = z.index(lengths)
	}
	var index []byte
	for _, n := range lengths {
		index = binary.LittleEndian.AppendUint32(index, n)
	}
	trailer := zfileHeader{
		flags: zfileTrailer, indexOffset: uint64(zfileHeaderSize + len(blocks)), indexEntries: uint64(len(lengths)),
		originalSize: uint64(len(z.content)), indexCRC: rawCRC(0, index), blockSize: uint32(z.block),
		algorithm: z.algo, dictSize: uint32(z.dict), verify: z.verify,
	}
	header := trailer
	header.flags = zfileHeaderDone
	if !z.inHead {
		header = zfileHeader{flags: zfileIsHeader | zfileIsData | zfileDigest, blockSize: uint32(z.block), algorithm: z.algo, verify: z.verify}
	}
	if z.header != nil {
		z.header(&header)
	}
	if z.trailer != nil {
		z.trailer(&trailer)
	}
	h, tr := header.encode(), trailer.encode()
	if z.bend != nil {
		z.bend(h, tr)
	}
	return slices.Concat(h, blocks, index, tr)
}

func goodZFile() *forgedZFile {
	return &forgedZFile{content: goodLSMT().file(), algo: LZ4, block: 4096, verify: true, inHead: true}
}

// inTar wraps a payload as converters do.
func inTar(payload []byte) []byte {
	file := append(tarHead(int64(len(payload))), payload...)
	return append(file, tarTail(int64(len(payload)))...)
}

// Package forge takes overlaybd layers apart and puts them together again with
// one thing false and everything else consistent: checksums and lengths are made
// to fit what was bent, so that a reader meets that and nothing else.
//
// It is test support. It has its own idea of the layout (spec sections 2 to 4)
// and shares no code with the reader it tests.
package forge

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"strconv"

	"github.com/pierrec/lz4/v4"
)

// Where things are in a layer (spec 2.1, 3.1).
const (
	Sector     = 512
	TarHead    = 3 * Sector // PAX header, its body, the member's header
	zHeader    = 512
	zDigest    = 28
	zFlags     = 32
	zOffset    = 40
	zEntries   = 48
	zSize      = 56
	zIndexCRC  = 64
	zBlockSize = 72
	zVerify    = 88

	blockSeed = 100007
)

// Fields of a ZFile header or trailer, for Part.Set32 and Part.Set64.
const (
	ZFlags        = zFlags
	ZIndexOffset  = zOffset
	ZIndexEntries = zEntries
	ZOriginalSize = zSize
	ZBlockSize    = zBlockSize

	ZIndexed = 1 << 3 // of ZFlags, in a header: the trailer's fields are here too
)

// Part is a header or trailer.
type Part []byte

// Set32 and Set64 write a field.
func (p Part) Set32(at int, value uint32) { binary.LittleEndian.PutUint32(p[at:], value) }

// Set64 writes a field of eight bytes.
func (p Part) Set64(at int, value uint64) { binary.LittleEndian.PutUint64(p[at:], value) }

// Get64 reads a field of eight bytes.
func (p Part) Get64(at int) uint64 { return binary.LittleEndian.Uint64(p[at:]) }

// Layer is a layer as converters write it: tar, ZFile with LZ4 blocks, LSMT file.
type Layer struct {
	Header  Part
	Blocks  []byte   // as stored, a CRC behind each
	Index   []uint32 // stored lengths
	Trailer Part
}

// Split takes a layer apart.
func Split(blob []byte) (*Layer, error) {
	if len(blob) < TarHead+2*zHeader {
		return nil, fmt.Errorf("split layer of %d bytes: too short", len(blob))
	}
	z := blob[TarHead:]
	header := Part(slices.Clone(z[:zHeader]))
	offset, entries := header.Get64(zOffset), header.Get64(zEntries)
	if header.Get64(zFlags)&ZIndexed == 0 || header[zVerify] == 0 || offset+4*entries+zHeader > uint64(len(z)) {
		return nil, errors.New("split layer: expected a ZFile with index fields in its header, and block CRCs")
	}
	l := &Layer{Header: header, Blocks: slices.Clone(z[zHeader:offset])}
	for raw := z[offset : offset+4*entries]; len(raw) > 0; raw = raw[4:] {
		l.Index = append(l.Index, binary.LittleEndian.Uint32(raw))
	}
	l.Trailer = slices.Clone(z[offset+4*entries:][:zHeader])
	return l, nil
}

func (l *Layer) index() []byte {
	var raw []byte
	for _, n := range l.Index {
		raw = binary.LittleEndian.AppendUint32(raw, n)
	}
	return raw
}

// Seal makes index CRC and digests what the fields, as they are now, ask for.
func (l *Layer) Seal() {
	crc := rawCRC(0, l.index())
	for _, part := range []Part{l.Header, l.Trailer} {
		part.Set32(zIndexCRC, crc)
		part.Set32(zDigest, 0)
		part.Set32(zDigest, rawCRC(0, part[:zHeader]))
	}
}

// SealBlock makes the CRC of block i fit its bytes.
func (l *Layer) SealBlock(i int) {
	block := l.block(i)
	binary.LittleEndian.PutUint32(block[len(block)-4:], rawCRC(blockSeed, block[:len(block)-4]))
}

func (l *Layer) block(i int) []byte {
	off := 0
	for _, n := range l.Index[:i] {
		off += int(n)
	}
	return l.Blocks[off:][:l.Index[i]]
}

// BlockAt is the offset, in the blob, of stored block i.
func (l *Layer) BlockAt(i int) int64 {
	off := int64(TarHead + zHeader)
	for _, n := range l.Index[:i] {
		off += int64(n)
	}
	return off
}

// Bytes is the blob.
func (l *Layer) Bytes() []byte {
	return Tar(slices.Concat(l.Header, l.Blocks, l.index(), l.Trailer))
}

// Content expands the LSMT file within.
func (l *Layer) Content() ([]byte, error) {
	size, block := int(l.Header.Get64(zSize)), int(binary.LittleEndian.Uint32(l.Header[zBlockSize:]))
	content := make([]byte, size)
	stored := l.Blocks
	for i, n := range l.Index {
		dst := content[i*block : min((i+1)*block, size)]
		got, err := lz4.UncompressBlock(stored[:n-4], dst)
		if err != nil || got != len(dst) {
			return nil, fmt.Errorf("expand block %d: %d bytes, %w", i, got, err)
		}
		stored = stored[n:]
	}
	return content, nil
}

// rawCRC is CRC-32C whose register starts at seed and is not inverted.
func rawCRC(seed uint32, p []byte) uint32 {
	return ^crc32.Update(^seed, crc32.MakeTable(crc32.Castagnoli), p)
}

// Tar wraps a payload: a PAX header that tells its length, then the member.
func Tar(payload []byte) []byte {
	head := make([]byte, TarHead)
	record := paxSize(len(payload))
	tarHeader(head[:Sector], "overlaybd.pax", len(record), 'x')
	copy(head[Sector:], record)
	tarHeader(head[2*Sector:], "overlaybd.commit", 0, '0')
	padding := (Sector - len(payload)%Sector) % Sector
	return slices.Concat(head, payload, make([]byte, padding+2*Sector))
}

func tarHeader(p []byte, name string, size int, kind byte) {
	copy(p, name)
	copy(p[100:], "0000644\x000000000\x000000000\x00")
	copy(p[124:], fmt.Sprintf("%011o\x0000000000000\x00        ", size))
	p[156] = kind
	copy(p[257:], "ustar\x0000")
	sum := 0
	for _, b := range p[:Sector] {
		sum += int(b)
	}
	copy(p[148:], fmt.Sprintf("%06o\x00 ", sum))
}

func paxSize(n int) string {
	rest := " size=" + strconv.Itoa(n) + "\n"
	total := len(rest)
	for total != len(rest)+len(strconv.Itoa(total)) {
		total = len(rest) + len(strconv.Itoa(total))
	}
	return strconv.Itoa(total) + rest
}

package overlaybd

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/referee-cri/referee/internal/reason"
)

// The ZFile header and trailer (spec 3.1).
const (
	zfileHeaderSize = 512
	zfileStructSize = 96
	zfileMagic      = "ZFile\x00\x01\x00tuji.yyf@Alibaba"
)

// The flags of a ZFile header or trailer (spec 3.2). Files of 2021 hold
// uninitialised memory above zfileFlagMask.
const (
	zfileIsHeader   = 1 << 0
	zfileIsData     = 1 << 1
	zfileSealed     = 1 << 2
	zfileOverwrite  = 1 << 3 // header: the fields of the trailer are here too
	zfileDigest     = 1 << 4 // digest and index CRC are valid
	zfileIndexComp  = 1 << 5 // never written; unreadable by anyone
	zfileFlagMask   = 0x3F
	zfileHeaderDone = zfileIsHeader | zfileIsData | zfileOverwrite | zfileDigest
	zfileTrailer    = zfileIsData | zfileSealed | zfileDigest
)

// zfileHeader is a decoded header or trailer.
type zfileHeader struct {
	flags        uint64
	indexOffset  uint64 // from the start of the ZFile
	indexEntries uint64
	originalSize uint64
	indexCRC     uint32
	blockSize    uint32
	algorithm    Algorithm
	useDict      uint8
	dictSize     uint32
	verify       bool // each block is followed by its CRC
}

func hasMagic(p []byte, magic string) bool { return bytes.HasPrefix(p, []byte(magic)) }

// parseZFileHeader decodes a header or trailer and checks what it says about
// itself: magic, struct size and, where there is one, digest.
func parseZFileHeader(p []byte) (zfileHeader, error) {
	le := binary.LittleEndian
	if len(p) < zfileHeaderSize || !hasMagic(p, zfileMagic) {
		return zfileHeader{}, reason.Errorf(reason.FormatCorrupt, "no ZFile magic")
	}
	if size := le.Uint32(p[24:]); size != zfileStructSize {
		return zfileHeader{}, reason.Errorf(reason.FormatCorrupt, "ZFile header struct has %d bytes, want %d", size, zfileStructSize)
	}
	h := zfileHeader{
		flags:        le.Uint64(p[32:]) & zfileFlagMask,
		indexOffset:  le.Uint64(p[40:]),
		indexEntries: le.Uint64(p[48:]),
		originalSize: le.Uint64(p[56:]),
		indexCRC:     le.Uint32(p[64:]),
		blockSize:    le.Uint32(p[72:]),
		algorithm:    Algorithm(p[76]),
		useDict:      p[78],
		dictSize:     le.Uint32(p[84:]),
		verify:       p[88] != 0,
	}
	if h.flags&zfileDigest != 0 {
		if want, got := le.Uint32(p[28:]), zfileDigestOf(p); want != got {
			return zfileHeader{}, reason.Errorf(reason.FormatCorrupt, "ZFile header digest is %#08x, want %#08x", got, want)
		}
	}
	if h.flags&zfileIndexComp != 0 {
		return zfileHeader{}, reason.Errorf(reason.FormatCorrupt, "ZFile says that its index is compressed, which has no definition")
	}
	return h, nil
}

// zfileDigestOf is the CRC of the header with its digest field as zeros.
func zfileDigestOf(p []byte) uint32 {
	crc := rawCRC(0, p[:28])
	crc = rawCRC(crc, make([]byte, 4))
	return rawCRC(crc, p[32:zfileHeaderSize])
}

// encode is the inverse of parseZFileHeader, digest included.
func (h *zfileHeader) encode() []byte {
	le := binary.LittleEndian
	p := make([]byte, zfileHeaderSize)
	copy(p, zfileMagic)
	le.PutUint32(p[24:], zfileStructSize)
	le.PutUint64(p[32:], h.flags)
	le.PutUint64(p[40:], h.indexOffset)
	le.PutUint64(p[48:], h.indexEntries)
	le.PutUint64(p[56:], h.originalSize)
	le.PutUint32(p[64:], h.indexCRC)
	le.PutUint32(p[72:], h.blockSize)
	p[76] = byte(h.algorithm)
	p[78] = h.useDict
	le.PutUint32(p[84:], h.dictSize)
	if h.verify {
		p[88] = 1
	}
	le.PutUint32(p[28:], zfileDigestOf(p))
	return p
}

// Bounds on what a ZFile may claim. Blocks of 64 KiB are the largest that
// stock writes; 2^26 blocks of 4 KiB hold 256 GiB.
const (
	maxReadBlock = 1 << 20
	maxBlocks    = 1 << 26
)

// check refuses a header whose numbers contradict each other or the file's
// length, so that nothing is allocated on its word.
func (h *zfileHeader) check(fileLen int64) error {
	dataStart := uint64(zfileHeaderSize) + uint64(h.dictSize)
	var err error
	switch {
	case h.blockSize == 0 || h.blockSize > maxReadBlock:
		err = fmt.Errorf("block size %d", h.blockSize)
	case h.useDict != 0:
		err = fmt.Errorf("blocks use a dictionary, which has no definition")
	case h.indexEntries == 0 || h.indexEntries > maxBlocks:
		err = fmt.Errorf("%d blocks", h.indexEntries)
	case h.originalSize == 0 || h.originalSize > uint64(h.blockSize)*maxBlocks ||
		(h.originalSize-1)/uint64(h.blockSize)+1 != h.indexEntries:
		err = fmt.Errorf("%d blocks of %d bytes for a file of %d bytes", h.indexEntries, h.blockSize, h.originalSize)
	case h.indexOffset < dataStart || h.indexOffset > uint64(fileLen) ||
		4*h.indexEntries > uint64(fileLen)-h.indexOffset:
		err = fmt.Errorf("index of %d entries at %d in a file of %d bytes", h.indexEntries, h.indexOffset, fileLen)
	default:
		return nil
	}
	return reason.Errorf(reason.FormatCorrupt, "ZFile header: %w", err)
}

package overlaybd

import (
	"encoding/binary"
	"fmt"

	"github.com/referee-cri/referee/internal/reason"
)

// The LSMT header and trailer (spec 4.1).
const (
	sector         = 512
	lsmtHeaderSize = 4096
	lsmtStructSize = 390
	lsmtMagic      = "LSMT\x00\x01\x02\x00\x65\x7E\x63\xD2\x94\x44\x08\x4C\xA2\xD2\xC8\xEC\x4F\xCF\xAE\x8A"
	lsmtVersion    = 1
	firstData      = lsmtHeaderSize / sector // sector of an LSMT file at which data begins

	uuidSize    = 37
	userTagSize = 256
)

// The flags of an LSMT header or trailer (spec 4.2).
const (
	lsmtIsHeader        = 1 << 0
	lsmtIsData          = 1 << 1
	lsmtSealed          = 1 << 2
	lsmtCommittedHeader = lsmtIsHeader | lsmtIsData | lsmtSealed
	lsmtTrailer         = lsmtIsData | lsmtSealed
)

// Bounds on an LSMT file (spec 4.4).
const (
	maxLayerSegments = 1_000_000
	padSegments      = 256     // a committed index is padded to this many entries
	maxVirtualSize   = 1 << 59 // 2^50 sectors
)

// lsmtHeader is a decoded header or trailer.
type lsmtHeader struct {
	flags        uint32
	indexOffset  uint64 // bytes
	indexEntries uint64 // with padding
	virtualSize  uint64 // bytes; 0: as the layers below
	uuid         string
	parentUUID   string
	userTag      string
}

// parseLSMTHeader decodes and checks what a header says about itself; want are
// the flags, out of mask, that it must have.
func parseLSMTHeader(p []byte, mask, want uint32) (lsmtHeader, error) {
	le := binary.LittleEndian
	if len(p) < lsmtHeaderSize || !hasMagic(p, lsmtMagic) {
		return lsmtHeader{}, reason.Errorf(reason.FormatCorrupt, "no LSMT magic")
	}
	h := lsmtHeader{
		flags:        le.Uint32(p[28:]),
		indexOffset:  le.Uint64(p[32:]),
		indexEntries: le.Uint64(p[40:]),
		virtualSize:  le.Uint64(p[48:]),
	}
	if size := le.Uint32(p[24:]); size != lsmtStructSize {
		return lsmtHeader{}, reason.Errorf(reason.FormatCorrupt, "LSMT header struct has %d bytes, want %d", size, lsmtStructSize)
	}
	if h.flags&mask != want {
		return lsmtHeader{}, reason.Errorf(reason.FormatCorrupt, "LSMT flags %#x: not a sealed data file", h.flags)
	}
	if h.virtualSize > maxVirtualSize {
		return lsmtHeader{}, reason.Errorf(reason.FormatCorrupt, "LSMT virtual size %d", h.virtualSize)
	}
	return h, nil
}

// checkIndex refuses an index that does not lie between data and trailer.
func (h *lsmtHeader) checkIndex(trailerOffset int64) error {
	var err error
	switch {
	case h.indexEntries > maxLayerSegments:
		err = fmt.Errorf("%d segments, more than %d", h.indexEntries, maxLayerSegments)
	case h.indexOffset%sector != 0 || h.indexOffset < lsmtHeaderSize || h.indexOffset > uint64(trailerOffset) ||
		segmentSize*h.indexEntries > uint64(trailerOffset)-h.indexOffset:
		err = fmt.Errorf("%d segments at %d, before a trailer at %d", h.indexEntries, h.indexOffset, trailerOffset)
	default:
		return nil
	}
	return reason.Errorf(reason.FormatCorrupt, "LSMT index: %w", err)
}

// encode is a header or trailer as stock's commit writes it.
func (h *lsmtHeader) encode() []byte {
	le := binary.LittleEndian
	p := make([]byte, lsmtHeaderSize)
	copy(p, lsmtMagic)
	le.PutUint32(p[24:], lsmtStructSize)
	le.PutUint32(p[28:], h.flags)
	le.PutUint64(p[32:], h.indexOffset)
	le.PutUint64(p[40:], h.indexEntries)
	le.PutUint64(p[48:], h.virtualSize)
	copy(p[56:56+uuidSize], h.uuid)
	copy(p[93:93+uuidSize], h.parentUUID)
	p[132], p[133] = lsmtVersion, lsmtVersion
	copy(p[134:134+userTagSize], h.userTag)
	return p
}

package estargz

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strconv"
)

// Sizes of footers, in bytes. Each is an empty gzip member with an extra field.
const (
	footerSize         = 51
	legacyFooterSize   = 47
	externalFooterSize = 46
)

const (
	magic         = "STARGZ"
	externalMagic = "STARGZEXTERNALTOC"
	offsetDigits  = 16 // hexadecimal
	gzipHeader    = 10
	flagExtra     = 0x04
)

// emptyMember is how a footer goes on behind its extra field: a final stored block
// of no bytes, checksum and length.
var emptyMember = []byte{0x01, 0x00, 0x00, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0}

// footer is what the end of a blob says.
type footer struct {
	size     int64 // of the footer itself
	toc      int64 // where the table is, unless it is elsewhere
	external bool  // the table is in a blob of its own
}

// parseFooter finds the footer at the end of tail, the last bytes of a blob of
// size bytes.
func parseFooter(tail []byte, size int64) (footer, error) {
	if extra, ok := extraField(tail, footerSize); ok {
		if field, ok := subfield(extra); ok && len(field) == offsetDigits+len(magic) {
			return tocAt(field, footerSize, size)
		}
	}
	if extra, ok := extraField(tail, legacyFooterSize); ok && len(extra) == offsetDigits+len(magic) {
		return tocAt(extra, legacyFooterSize, size)
	}
	if extra, ok := extraField(tail, externalFooterSize); ok {
		if field, ok := subfield(extra); ok && string(field) == externalMagic {
			return footer{size: externalFooterSize, toc: size - externalFooterSize, external: true}, nil
		}
	}
	return footer{}, fmt.Errorf("no footer of eStargz: the blob ends with %x", tail[max(0, len(tail)-footerSize):])
}

// extraField returns the extra field of a footer of n bytes.
func extraField(tail []byte, n int) ([]byte, bool) {
	if len(tail) < n {
		return nil, false
	}
	b := tail[len(tail)-n:]
	extra := b[gzipHeader+2 : n-len(emptyMember)]
	// Time, flags of the compressor and system are nobody's concern.
	isFooter := b[0] == 0x1f && b[1] == 0x8b && b[2] == 8 && b[3] == flagExtra &&
		int(binary.LittleEndian.Uint16(b[gzipHeader:])) == len(extra) && bytes.HasSuffix(b, emptyMember)
	return extra, isFooter
}

// subfield returns the content of a subfield "SG" that is all of an extra field
// (RFC 1952, section 2.3.1.1).
func subfield(extra []byte) ([]byte, bool) {
	if len(extra) < 4 || string(extra[:2]) != "SG" || int(binary.LittleEndian.Uint16(extra[2:])) != len(extra)-4 {
		return nil, false
	}
	return extra[4:], true
}

func tocAt(field []byte, footerSize, size int64) (footer, error) {
	if !bytes.HasSuffix(field, []byte(magic)) {
		return footer{}, fmt.Errorf("footer has %.32q for its magic", field[offsetDigits:])
	}
	at, err := strconv.ParseUint(string(field[:offsetDigits]), 16, 63)
	if err != nil {
		return footer{}, fmt.Errorf("footer has the table at %.32q: %w", field[:offsetDigits], err)
	}
	if int64(at) >= size-footerSize {
		return footer{}, fmt.Errorf("footer has the table at %d, in a blob of %d bytes", at, size)
	}
	return footer{size: footerSize, toc: int64(at)}, nil
}

package gzindex

import (
	"bytes"
	"encoding/binary"
)

// A member's header (RFC 1952, 2.3.1).
const (
	headerSize  = 10
	trailerSize = 8
	// maxHeader bounds a header with its name, comment and extra field.
	maxHeader = 128 << 10

	hasHeaderCRC = 1 << 1
	hasExtra     = 1 << 2
	hasName      = 1 << 3
	hasComment   = 1 << 4
	reservedBits = 0xe0
)

// member reads a member's header, or nothing where src ends within.
func (f *inflater) member() (status, error) {
	n, err := memberHeader(f.src[f.pos:])
	if err != nil || n == 0 {
		return needInput, err
	}
	f.pos += n
	f.floor = f.out
	f.phase = phaseBlock
	return atBlock, nil
}

// memberHeader returns the length of the header with which p begins, 0 where p
// ends within.
func memberHeader(p []byte) (n int, err error) {
	magic := [...]byte{0x1f, 0x8b, 8}
	if got := p[:min(len(p), len(magic))]; !bytes.HasPrefix(magic[:], got) {
		return 0, corrupt("a member begins %x, not %x", got, magic)
	}
	if len(p) < headerSize {
		return 0, nil
	}
	flags := p[3]
	if flags&reservedBits != 0 {
		return 0, corrupt("header with the reserved flags %#x", flags)
	}
	n = headerSize
	if flags&hasExtra != 0 {
		if len(p) < n+2 {
			return 0, nil
		}
		n += 2 + int(binary.LittleEndian.Uint16(p[n:]))
	}
	for _, text := range [...]byte{hasName, hasComment} {
		if flags&text == 0 {
			continue
		}
		if n >= len(p) {
			return 0, tooLong(p)
		}
		end := bytes.IndexByte(p[n:], 0)
		if end < 0 {
			return 0, tooLong(p)
		}
		n += end + 1
	}
	if flags&hasHeaderCRC != 0 {
		n += 2
	}
	if n > len(p) {
		return 0, tooLong(p)
	}
	return n, nil
}

// tooLong refuses a header of which p is a part and that is longer than any.
func tooLong(p []byte) error {
	if len(p) > maxHeader {
		return corrupt("a header of more than %d bytes", maxHeader)
	}
	return nil
}

// memberEnd reads a member's trailer.
func (f *inflater) memberEnd() (status, error) {
	f.align()
	if len(f.src)-f.pos < trailerSize {
		return needInput, nil
	}
	f.pos += copy(f.trailer[:], f.src[f.pos:])
	f.phase = phaseMember
	return atMember, nil
}

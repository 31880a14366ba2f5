package rafstest

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"math/bits"
)

// place is where in a gzip file a block begins.
type place struct {
	in, out int // bytes before it: of the file, the last of which may belong to it in part; of the content
	bits    int // how many high bits of the last byte belong to it
}

const (
	gzipHeader  = 10
	blockOutput = 20_000 // bytes of content in a block
	matchLength = 10     // of every match: code 264 (RFC 1951, 3.2.5)
	farthest    = 32 << 10
)

// deflate writes gzip with fixed codes, whose blocks begin at any bit, and tells
// where. Matches reach over blocks.
type deflate struct {
	out  []byte
	hold uint64
	have int
	seen map[[matchLength]byte]int
}

func gzipBlocks(content []byte) (file []byte, places []place) {
	d := &deflate{out: []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff}, seen: map[[matchLength]byte]int{}}
	for at := 0; at == 0 || at < len(content); at += blockOutput {
		end := min(at+blockOutput, len(content))
		// Bits in hold belong to a byte that is not written yet.
		places = append(places, place{in: len(d.out) + min(d.have, 1), out: at, bits: (8 - d.have) % 8})
		final := uint64(0)
		if end == len(content) {
			final = 1
		}
		d.put(final|1<<1, 3)
		d.block(content, at, end)
		d.code(256)
	}
	if d.have > 0 {
		d.put(0, 8-d.have)
	}
	d.out = binary.LittleEndian.AppendUint32(d.out, crc32.ChecksumIEEE(content))
	d.out = binary.LittleEndian.AppendUint32(d.out, uint32(len(content)))
	return d.out, places
}

func (d *deflate) block(content []byte, at, end int) {
	for at < end {
		if end-at < matchLength {
			d.code(int(content[at]))
			at++
			continue
		}
		next := [matchLength]byte(content[at:])
		before, ok := d.seen[next]
		d.seen[next] = at
		if !ok || at-before > farthest || !bytes.Equal(content[before:before+matchLength], next[:]) {
			d.code(int(content[at]))
			at++
			continue
		}
		d.code(264)
		d.distance(at - before)
		at += matchLength
	}
}

// put writes n bits, the lowest first.
func (d *deflate) put(v uint64, n int) {
	d.hold |= v << d.have
	for d.have += n; d.have >= 8; d.have -= 8 {
		d.out = append(d.out, byte(d.hold))
		d.hold >>= 8
	}
}

// putCode writes a Huffman code, whose highest bit comes first.
func (d *deflate) putCode(v uint16, n int) { d.put(uint64(bits.Reverse16(v)>>(16-n)), n) }

// code writes a literal, a length or the end of a block (RFC 1951, 3.2.6).
func (d *deflate) code(symbol int) {
	switch {
	case symbol < 144:
		d.putCode(uint16(0x30+symbol), 8)
	case symbol < 256:
		d.putCode(uint16(0x190+symbol-144), 9)
	case symbol < 280:
		d.putCode(uint16(symbol-256), 7)
	default:
		d.putCode(uint16(0xC0+symbol-280), 8)
	}
}

func (d *deflate) distance(n int) {
	n--
	if n < 4 {
		d.putCode(uint16(n), 5)
		return
	}
	extra := bits.Len(uint(n)) - 2
	d.putCode(uint16(2*extra+2+n>>extra&1), 5)
	d.put(uint64(n&(1<<extra-1)), extra)
}

package gzindex

import "math/bits"

// entry is what a code stands for:
//
//	bits 0-4    length of the code
//	bits 8-12   the same and extra bits behind it; of a subtable, its index bits
//	bits 13-15  flags
//	bits 16-31  a literal, the least length or distance, or where a subtable begins
//
// 0 is no code.
type entry uint32

const (
	flagLiteral  = 1 << 13
	flagEnd      = 1 << 14 // of the block
	flagSubtable = 1 << 15
)

func (e entry) code() uint    { return uint(e) & 31 }
func (e entry) total() uint   { return uint(e) >> 8 & 31 }
func (e entry) value() uint32 { return uint32(e) >> 16 }

// The tables are looked up by as many bits at once; a longer code leads to a
// subtable. The sizes are those that the worst set of codes of up to 15 bits needs,
// rounded up to be masked.
const (
	litBits   = 11
	distBits  = 8
	lenBits   = 7 // of the code for code lengths, which needs no subtables
	litTable  = 4096
	distTable = 512

	maxCode     = 15
	litSymbols  = 288
	distSymbols = 32
	lenSymbols  = 19
	endOfBlock  = 256
)

// lengthBase and distBase are the least values of the symbols, with how many extra
// bits follow (RFC 1951, 3.2.5). Symbols that have no meaning are left out.
var (
	lengthBase  = [...]uint16{3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258}
	lengthExtra = [...]uint8{0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0}
	distBase    = [...]uint16{
		1, 2, 3, 4, 5, 7, 9, 13, 17, 25, 33, 49, 65, 97, 129, 193, 257, 385, 513, 769, 1025, 1537, 2049, 3073, 4097, 6145,
		8193, 12289, 16385, 24577,
	}
	distExtra = [...]uint8{0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13}
)

// litEntry is a symbol of literals and lengths without its code's length, 0 where it
// has no meaning.
func litEntry(symbol int) (e entry, extra uint) {
	switch i := symbol - endOfBlock - 1; {
	case symbol < endOfBlock:
		return entry(symbol<<16 | flagLiteral), 0
	case symbol == endOfBlock:
		return flagEnd, 0
	case i < len(lengthBase):
		return entry(uint32(lengthBase[i]) << 16), uint(lengthExtra[i])
	default:
		return 0, 0
	}
}

func distEntry(symbol int) (e entry, extra uint) {
	if symbol < len(distBase) {
		return entry(uint32(distBase[symbol]) << 16), uint(distExtra[symbol])
	}
	return 0, 0
}

func lenEntry(symbol int) (e entry, extra uint) { return entry(symbol<<16 | flagLiteral), 0 }

// fill makes the table of the canonical code whose symbols have these lengths
// (RFC 1951, 3.2.2), or says that there is none. Codes are read lowest bit first.
// A code may be incomplete only where it has one symbol, of one bit, or none, as
// other inflaters allow.
func fill(table []entry, root uint, lengths []uint8, of func(int) (entry, uint)) bool {
	var count [maxCode + 1]int
	for _, n := range lengths {
		count[n]++
	}
	if !complete(&count) {
		return false
	}
	var sorted [litSymbols]uint16 // by length, then by symbol: the order of their codes
	var place [maxCode + 2]int
	for n := 1; n <= maxCode; n++ {
		place[n+1] = place[n] + count[n]
	}
	used := place[maxCode+1]
	for symbol, n := range lengths {
		if n > 0 {
			sorted[place[n]] = uint16(symbol)
			place[n]++
		}
	}
	b := builder{table: table, root: root, free: 1 << root, left: count}
	clear(table[:b.free])
	for _, symbol := range sorted[:used] {
		e, extra := of(int(symbol))
		length := uint(lengths[symbol])
		if e != 0 { // else it may have a code, but must not occur
			e |= entry(length | (length+extra)<<8)
		}
		if !b.add(length, e) {
			return false
		}
	}
	return true
}

// complete says whether every sequence of bits begins with a code, but for the
// exceptions of fill.
func complete(count *[maxCode + 1]int) bool {
	left, used := 1, 0 // left: codes of the length in hand that nobody has
	for n := 1; n <= maxCode; n++ {
		used += count[n]
		if left = left<<1 - count[n]; left < 0 {
			return false
		}
	}
	return left == 0 || used == 0 || used == 1 && count[1] == 1
}

// builder puts codes into a table, in their order.
type builder struct {
	table  []entry
	root   uint
	free   uint             // where the next subtable begins
	left   [maxCode + 1]int // symbols of each length to come
	code   uint             // the next one
	length uint             // of the last one
}

func (b *builder) add(length uint, e entry) bool {
	b.code <<= length - b.length
	b.length = length
	code := uint(bits.Reverse16(uint16(b.code))) >> (16 - length)
	size := uint(1) << b.root
	if length <= b.root {
		for i := code; i < size; i += 1 << length {
			b.table[i] = e
		}
	} else {
		sub := &b.table[code&(size-1)]
		if *sub == 0 {
			width := b.subtableBits(length)
			begin := b.free
			if b.free += 1 << width; b.free > uint(len(b.table)) {
				return false
			}
			*sub = entry(b.root | width<<8 | flagSubtable | begin<<16)
		}
		begin := uint(sub.value())
		for i := code >> b.root; i < 1<<sub.total(); i += 1 << (length - b.root) {
			b.table[begin+i] = e
		}
	}
	b.code++
	b.left[length]--
	return true
}

// subtableBits is how many bits behind the root the codes need that begin like the
// next one, which has this length: codes follow each other until they fill it.
func (b *builder) subtableBits(length uint) uint {
	width := length - b.root
	for filled := b.left[length]; filled < 1<<width && b.root+width < maxCode; {
		width++
		filled = filled<<1 + b.left[b.root+width]
	}
	return width
}

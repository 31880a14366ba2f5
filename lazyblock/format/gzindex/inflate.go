package gzindex

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// ErrCorrupt is wrapped by every error that blames the bytes.
var ErrCorrupt = errors.New("broken gzip data")

func corrupt(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrCorrupt}, args...)...)
}

// phase is what of a gzip file comes next.
type phase uint8

const (
	phaseMember  phase = iota // a member's header
	phaseBlock                // a block's header
	phaseStored               // bytes of a stored block
	phaseCodes                // symbols of a compressed block
	phaseTrailer              // checksum and length of a member
)

// status is why inflating stopped.
type status uint8

const (
	needInput status = iota // src has been used as far as possible
	full                    // dst has no room for the next symbol
	atBlock                 // a block begins
	atMember                // a member has ended
)

// inflater turns src into dst. It stops only between symbols, and so can go on
// after either was replaced by a longer or other one: its owner moves what is left.
type inflater struct {
	src  []byte
	pos  int    // of the next byte of src that is not in hold
	hold uint64 // bits to come, lowest first; above have they are those of src[pos:] or 0
	have uint   // how many bits of hold count

	dst    []byte
	out    int    // where the next byte goes
	window []byte // the output before dst[0]
	floor  int    // offset in dst before which no match reaches: the member begins there
	// cut has a match that does not fit into dst cut off.
	cut bool

	phase   phase
	final   bool // the block in hand is its member's last
	stored  int  // bytes to come of a stored block
	trailer [8]byte

	lit  [litTable]entry
	dist [distTable]entry
}

// used is how many bits of src were consumed.
func (f *inflater) used() int { return 8*f.pos - int(f.have) }

// run goes on until there is something to say.
func (f *inflater) run() (status, error) {
	for {
		var s status
		var done bool
		var err error
		switch f.phase {
		case phaseMember:
			return f.member()
		case phaseBlock:
			done, err = f.block()
		case phaseStored:
			s, done = f.copyStored()
		case phaseCodes:
			s, done, err = f.codes()
		case phaseTrailer:
			return f.memberEnd()
		}
		if err != nil || !done {
			return s, err
		}
		if f.phase == phaseBlock {
			return atBlock, nil
		}
	}
}

// endBlock says what comes after a block.
func (f *inflater) endBlock() {
	f.phase = phaseBlock
	if f.final {
		f.phase = phaseTrailer
	}
}

// giveBackBytes leaves less than a byte in hold.
func (f *inflater) giveBackBytes() {
	f.pos -= int(f.have / 8)
	f.have %= 8
	f.hold &= 1<<f.have - 1
}

// align drops bits up to the next byte.
func (f *inflater) align() {
	f.giveBackBytes()
	f.hold, f.have = 0, 0
}

// refill takes as many bytes of src as hold has room for.
func (f *inflater) refill() {
	for f.have < 56 && f.pos < len(f.src) {
		f.hold |= uint64(f.src[f.pos]) << f.have
		f.pos++
		f.have += 8
	}
}

// take returns the next n bits, at most 16; ok is false where src has no more.
func (f *inflater) take(n uint) (v uint32, ok bool) {
	if f.have < n {
		if f.refill(); f.have < n {
			return 0, false
		}
	}
	v = uint32(f.hold & (1<<n - 1))
	f.hold >>= n
	f.have -= n
	return v, true
}

// block reads the header of a block (RFC 1951, 3.2.3), or nothing where src ends
// within.
func (f *inflater) block() (done bool, err error) {
	pos, hold, have := f.pos, f.hold, f.have
	defer func() {
		if !done {
			f.pos, f.hold, f.have = pos, hold, have
		}
	}()
	v, ok := f.take(3)
	if !ok {
		return false, nil
	}
	f.final = v&1 != 0
	switch v >> 1 {
	case 0:
		f.align()
		if len(f.src)-f.pos < 4 {
			return false, nil
		}
		n, inverted := binary.LittleEndian.Uint16(f.src[f.pos:]), binary.LittleEndian.Uint16(f.src[f.pos+2:])
		if n != ^inverted {
			return false, corrupt("stored block of %#04x bytes, or of %#04x", n, ^inverted)
		}
		f.pos += 4
		f.stored, f.phase = int(n), phaseStored
		return true, nil
	case 1:
		f.fixed()
		f.phase = phaseCodes
		return true, nil
	case 2:
		done, err = f.dynamic()
		if done {
			f.phase = phaseCodes
		}
		return done, err
	default:
		return false, corrupt("block of type 3")
	}
}

// fixed sets the codes of RFC 1951, 3.2.6.
func (f *inflater) fixed() {
	var lengths [litSymbols]uint8
	for i := range lengths {
		switch {
		case i < 144, i >= 280:
			lengths[i] = 8
		case i < 256:
			lengths[i] = 9
		default:
			lengths[i] = 7
		}
	}
	fill(f.lit[:], litBits, lengths[:], litEntry)
	for i := range distSymbols {
		lengths[i] = 5
	}
	fill(f.dist[:], distBits, lengths[:distSymbols], distEntry)
}

// Bounds of a dynamic block (RFC 1951, 3.2.7).
const (
	maxLiterals  = 286
	maxDistances = 30
)

// lenOrder is the order of the lengths of the code for lengths.
var lenOrder = [lenSymbols]uint8{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}

// dynamic reads the codes of a block.
func (f *inflater) dynamic() (done bool, err error) {
	counts, ok := f.take(14)
	if !ok {
		return false, nil
	}
	lits, dists, lens := int(counts&31)+257, int(counts>>5&31)+1, int(counts>>10)+4
	if lits > maxLiterals || dists > maxDistances {
		return false, corrupt("block with codes for %d literals and lengths and %d distances", lits, dists)
	}
	var lengths [maxLiterals + maxDistances]uint8
	for _, symbol := range lenOrder[:lens] {
		n, ok := f.take(3)
		if !ok {
			return false, nil
		}
		lengths[symbol] = uint8(n)
	}
	var table [1 << lenBits]entry
	if !fill(table[:], lenBits, lengths[:lenSymbols], lenEntry) {
		return false, corrupt("impossible code for code lengths")
	}
	clear(lengths[:lenSymbols])
	if done, err = f.codeLengths(&table, lengths[:lits+dists]); !done {
		return false, err
	}
	switch {
	case lengths[endOfBlock] == 0:
		return false, corrupt("block without an end")
	case !fill(f.lit[:], litBits, lengths[:lits], litEntry):
		return false, corrupt("impossible code for literals and lengths")
	case !fill(f.dist[:], distBits, lengths[lits:lits+dists], distEntry):
		return false, corrupt("impossible code for distances")
	}
	return true, nil
}

// codeLengths reads the lengths of codes, which are coded themselves.
func (f *inflater) codeLengths(table *[1 << lenBits]entry, lengths []uint8) (done bool, err error) {
	for i := 0; i < len(lengths); {
		f.refill()
		e := table[f.hold&(1<<lenBits-1)]
		if e == 0 && f.have >= lenBits {
			return false, corrupt("code length without a meaning")
		}
		if e == 0 || e.code() > f.have {
			return false, nil
		}
		_, _ = f.take(e.code()) // is there
		symbol := e.value()
		if symbol < 16 {
			lengths[i] = uint8(symbol)
			i++
			continue
		}
		repeat, n := uint8(0), 0
		var extra uint32
		var ok bool
		switch symbol {
		case 16:
			if i == 0 {
				return false, corrupt("repeated code length without one before")
			}
			repeat = lengths[i-1]
			extra, ok = f.take(2)
			n = 3 + int(extra)
		case 17:
			extra, ok = f.take(3)
			n = 3 + int(extra)
		default:
			extra, ok = f.take(7)
			n = 11 + int(extra)
		}
		switch {
		case !ok:
			return false, nil
		case n > len(lengths)-i:
			return false, corrupt("more code lengths than codes")
		}
		for ; n > 0; n-- {
			lengths[i] = repeat
			i++
		}
	}
	return true, nil
}

func (f *inflater) copyStored() (s status, done bool) {
	n := copy(f.dst[f.out:], f.src[f.pos:min(len(f.src), f.pos+f.stored)])
	f.pos, f.out, f.stored = f.pos+n, f.out+n, f.stored-n
	switch {
	case f.stored == 0:
		f.endBlock()
		return 0, true
	case f.out == len(f.dst):
		return full, false
	default:
		return needInput, false
	}
}

package gzindex

import "encoding/binary"

// Room that lets a turn of the fast loop do without looking: eight bytes of input to
// load, and for output two literals and the longest match, which is copied eight
// bytes at a time.
const (
	inputMargin  = 8
	maxMatch     = 258
	outputMargin = 2 + maxMatch + 8
)

// codes inflates symbols to the end of their block, or as far as src and dst reach.
func (f *inflater) codes() (s status, done bool, err error) {
	for {
		if f.pos+inputMargin <= len(f.src) && f.out+outputMargin <= len(f.dst) {
			if done, err = f.fast(); done || err != nil {
				return 0, done, err
			}
		}
		if s, done, err = f.step(); s != another || done || err != nil {
			return s, done, err
		}
	}
}

// another is the status of a step after which there is no reason to stop.
const another = atMember + 1

// fast inflates while there is room on both sides. done: the block has ended.
func (f *inflater) fast() (done bool, err error) {
	src, dst := f.src, f.dst
	pos, out, hold, have := f.pos, f.out, f.hold, f.have
	lastPos, lastOut := len(src)-inputMargin, len(dst)-outputMargin
	lit, dist := &f.lit, &f.dist
	for pos <= lastPos && out <= lastOut {
		hold |= binary.LittleEndian.Uint64(src[pos:]) << have
		pos += int(63-have) >> 3
		have |= 56
		e := lit[hold&(1<<litBits-1)]
		if e&flagLiteral != 0 { // at most 11 bits each
			hold >>= e & 31
			have -= uint(e & 31)
			dst[out] = byte(e >> 16)
			out++
			e = lit[hold&(1<<litBits-1)]
			if e&flagLiteral != 0 {
				hold >>= e & 31
				have -= uint(e & 31)
				dst[out] = byte(e >> 16)
				out++
				e = lit[hold&(1<<litBits-1)]
				if e&flagLiteral != 0 {
					continue // with it in hold
				}
			}
			if pos > lastPos {
				break
			}
			hold |= binary.LittleEndian.Uint64(src[pos:]) << have
			pos += int(63-have) >> 3
			have |= 56
		}
		if e&flagSubtable != 0 {
			e = lit[(uint64(e>>16)+hold>>litBits&(1<<(e>>8&31)-1))&(litTable-1)]
			if e&flagLiteral != 0 {
				hold >>= e & 31
				have -= uint(e & 31)
				dst[out] = byte(e >> 16)
				out++
				continue
			}
		}
		if e&flagEnd != 0 {
			f.pos, f.out, f.hold, f.have = pos, out, hold>>(e&31), have-uint(e&31)
			f.endBlock()
			return true, nil
		}
		if e == 0 {
			return false, errSymbol
		}
		// A length takes 20 bits and a distance 28, of 56.
		length := int(e>>16) + int(hold&(1<<(e>>8&31)-1)>>(e&31))
		hold >>= e >> 8 & 31
		have -= uint(e >> 8 & 31)
		e = dist[hold&(1<<distBits-1)]
		if e&flagSubtable != 0 {
			e = dist[(uint64(e>>16)+hold>>distBits&(1<<(e>>8&31)-1))&(distTable-1)]
		}
		if e == 0 {
			return false, errSymbol
		}
		distance := int(e>>16) + int(hold&(1<<(e>>8&31)-1)>>(e&31))
		hold >>= e >> 8 & 31
		have -= uint(e >> 8 & 31)

		from, end := out-distance, out+length
		switch {
		case from < 0 || from < f.floor:
			if from < f.floor {
				return false, errDistance
			}
			f.copyMatch(out, distance, length)
		case distance >= 8:
			for out < end {
				binary.LittleEndian.PutUint64(dst[out:], binary.LittleEndian.Uint64(dst[from:]))
				out += 8
				from += 8
			}
		case distance == 1:
			run := uint64(dst[from]) * 0x0101010101010101
			for out < end {
				binary.LittleEndian.PutUint64(dst[out:], run)
				out += 8
			}
		default:
			for out < end {
				dst[out] = dst[from]
				out++
				from++
			}
		}
		out = end
	}
	f.pos, f.out, f.hold, f.have = pos, out, hold, have
	return false, nil
}

var (
	errSymbol   = corrupt("symbol without a meaning")
	errDistance = corrupt("match reaches back before the data begins")
)

// step inflates one symbol, with or without its distance, where all of its bits are
// there and dst has room for it.
func (f *inflater) step() (s status, done bool, err error) {
	f.refill()
	e := f.lit[f.hold&(1<<litBits-1)]
	if e&flagSubtable != 0 {
		e = f.lit[(uint64(e>>16)+f.hold>>litBits&(1<<e.total()-1))&(litTable-1)]
	}
	switch {
	case e == 0 && f.have >= maxCode:
		return 0, false, errSymbol
	case e == 0 || e.total() > f.have:
		return needInput, false, nil
	case e&flagEnd != 0:
		f.drop(e.code())
		f.endBlock()
		return another, true, nil
	case e&flagLiteral != 0 && f.out == len(f.dst):
		return full, false, nil
	case e&flagLiteral != 0:
		f.dst[f.out] = byte(e.value())
		f.out++
		f.drop(e.code())
		return another, false, nil
	}
	return f.match(e)
}

func (f *inflater) drop(n uint) {
	f.hold >>= n
	f.have -= n
}

// match inflates a match whose length is e.
func (f *inflater) match(e entry) (s status, done bool, err error) {
	hold := f.hold >> e.total()
	have := f.have - e.total()
	d := f.dist[hold&(1<<distBits-1)]
	if d&flagSubtable != 0 {
		d = f.dist[(uint64(d>>16)+hold>>distBits&(1<<d.total()-1))&(distTable-1)]
	}
	switch {
	case d == 0 && have >= maxCode:
		return 0, false, errSymbol
	case d == 0 || d.total() > have:
		return needInput, false, nil
	}
	length := int(e.value()) + int(f.hold&(1<<e.total()-1)>>e.code())
	distance := int(d.value()) + int(hold&(1<<d.total()-1)>>d.code())
	room := len(f.dst) - f.out
	switch {
	case f.out-distance < f.floor:
		return 0, false, errDistance
	case length > room && !f.cut, room == 0:
		return full, false, nil
	}
	length = min(length, room)
	f.copyMatch(f.out, distance, length)
	f.out += length
	f.drop(e.total() + d.total())
	return another, false, nil
}

// copyMatch copies length bytes to dst[out:] from distance before, which may lie in
// the window. They fit, and distance is not beyond the floor.
func (f *inflater) copyMatch(out, distance, length int) {
	from := out - distance
	if from < 0 {
		begin := len(f.window) + from
		n := copy(f.dst[out:out+length], f.window[begin:])
		out, from, length = out+n, 0, length-n
	}
	for end := out + length; out < end; { // what was copied is repeated
		n := copy(f.dst[out:end], f.dst[from:out])
		out += n
	}
}

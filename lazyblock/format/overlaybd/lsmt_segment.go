package overlaybd

import (
	"encoding/binary"
	"fmt"
)

// segment maps sectors of the virtual disk to sectors of an LSMT file, packed
// as on disk (spec 4.3). In memory the tag is the number of the layer, 0 for
// the bottom one, and the highest bit of moffset says that the sectors are those
// of the layer's remote data.
type segment struct{ lo, hi uint64 }

const (
	segmentSize   = 16
	offsetBits    = 50
	moffsetBits   = 55
	invalidOffset = 1<<offsetBits - 1 // marks a padding entry
	maxSegment    = 1<<14 - 1         // sectors
	zeroedBit     = 1 << moffsetBits
	tagShift      = 56
	remoteBit     = 1 << (moffsetBits - 1)
	tagRemote     = 1 // on disk, of a TurboOCI layer (spec 5.2)
)

func newSegment(offset, length, moffset uint64) segment {
	return segment{offset | length<<offsetBits, moffset}
}

func (s segment) start() uint64   { return s.lo & invalidOffset }
func (s segment) sectors() uint64 { return s.lo >> offsetBits }
func (s segment) end() uint64     { return s.start() + s.sectors() }
func (s segment) moffset() uint64 { return s.hi & (remoteBit - 1) }
func (s segment) remote() bool    { return s.hi&remoteBit != 0 }
func (s segment) zeroed() bool    { return s.hi&zeroedBit != 0 }
func (s segment) layer() int      { return int(s.hi >> tagShift) }
func (s segment) padding() bool   { return s.start() == invalidOffset }

func (s segment) withLayer(n int) segment {
	s.hi = s.hi&(1<<tagShift-1) | uint64(n)<<tagShift
	return s
}

// cut returns the part of s from the sector from to before the sector to.
func (s segment) cut(from, to uint64) segment {
	hi := s.hi
	if !s.zeroed() {
		hi += from - s.start()
	}
	return segment{from | (to-from)<<offsetBits, hi}
}

func decodeSegment(p []byte) segment {
	return segment{binary.LittleEndian.Uint64(p), binary.LittleEndian.Uint64(p[8:])}
}

func (s segment) appendTo(p []byte) []byte {
	p = binary.LittleEndian.AppendUint64(p, s.lo)
	return binary.LittleEndian.AppendUint64(p, s.hi)
}

// bounds are the sectors that segments may lie in: up to data in the LSMT file, and
// up to remote, where the layer has remote data.
type bounds struct {
	data      uint64
	remote    uint64
	hasRemote bool
}

// appendSegments decodes raw index entries onto segs and enforces the rules of
// a layer's index (spec 4.4): ordered, disjoint, and within the data.
func appendSegments(segs []segment, raw []byte, limits bounds) ([]segment, error) {
	for ; len(raw) >= segmentSize; raw = raw[segmentSize:] {
		s := decodeSegment(raw)
		if s.padding() {
			continue
		}
		var err error
		if s, err = s.checked(limits); err != nil {
			return nil, err
		}
		if len(segs) > 0 && segs[len(segs)-1].end() > s.start() {
			return nil, fmt.Errorf("segment at sector %d begins before the one ahead of it ends", s.start())
		}
		segs = append(segs, s)
	}
	return segs, nil
}

// checked returns s as it is in memory, or why it cannot be.
func (s segment) checked(limits bounds) (segment, error) {
	first, end := uint64(firstData), limits.data
	remote := limits.hasRemote && !s.zeroed() && s.layer() == tagRemote
	at := s.hi & (zeroedBit - 1)
	last := at
	if !s.zeroed() {
		last += s.sectors()
	}
	if remote {
		first, end = 0, limits.remote
	}
	switch {
	case limits.hasRemote && s.layer() > tagRemote:
		return s, fmt.Errorf("segment at sector %d has the tag %d", s.start(), s.layer())
	case s.sectors() == 0:
		return s, fmt.Errorf("segment at sector %d is empty", s.start())
	case s.end() > invalidOffset: // no disk has it, and cutting it would overflow
		return s, fmt.Errorf("segment at sector %d ends at %d, beyond any disk", s.start(), s.end())
	case at < first || last > end || end >= remoteBit:
		return s, fmt.Errorf("segment at sector %d lies at %d to %d, outside the data %d to %d", s.start(), at, last, first, end)
	case remote:
		s.hi |= remoteBit
	}
	return s, nil
}

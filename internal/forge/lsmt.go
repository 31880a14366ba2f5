package forge

import (
	"encoding/binary"
	"fmt"
	"slices"
)

// Where things are in an LSMT file (spec 4.1).
const (
	lsmtHeader = 4096

	LSMTFlags        = 28 // of 4 bytes
	LSMTIndexOffset  = 32
	LSMTIndexEntries = 40
	LSMTVirtualSize  = 48
)

// Segment says where sectors of the disk are in the LSMT file (spec 4.3).
type Segment struct {
	Start   uint64 // sector of the disk
	Sectors uint64
	At      uint64 // sector of the file
	Zeroed  bool
}

// LSMT is an LSMT file.
type LSMT struct {
	Header   Part
	Data     []byte
	Segments []Segment // padding left out
	Trailer  Part
}

// SplitLSMT takes an LSMT file apart.
func SplitLSMT(file []byte) (*LSMT, error) {
	if len(file) < 2*lsmtHeader {
		return nil, fmt.Errorf("split LSMT file of %d bytes: too short", len(file))
	}
	trailer := Part(slices.Clone(file[len(file)-lsmtHeader:]))
	offset, entries := trailer.Get64(LSMTIndexOffset), trailer.Get64(LSMTIndexEntries)
	if offset < lsmtHeader || offset+16*entries > uint64(len(file)-lsmtHeader) {
		return nil, fmt.Errorf("split LSMT file: %d segments at %d of %d bytes", entries, offset, len(file))
	}
	f := &LSMT{Header: slices.Clone(file[:lsmtHeader]), Data: slices.Clone(file[lsmtHeader:offset]), Trailer: trailer}
	for raw := file[offset : offset+16*entries]; len(raw) > 0; raw = raw[16:] {
		lo, hi := binary.LittleEndian.Uint64(raw), binary.LittleEndian.Uint64(raw[8:])
		s := Segment{Start: lo & (1<<50 - 1), Sectors: lo >> 50, At: hi & (1<<55 - 1), Zeroed: hi>>55&1 != 0}
		if s.Start != 1<<50-1 {
			f.Segments = append(f.Segments, s)
		}
	}
	return f, nil
}

// Seal makes the trailer tell where the index is and how long.
func (f *LSMT) Seal() {
	f.Trailer.Set64(LSMTIndexOffset, uint64(lsmtHeader+len(f.Data)))
	f.Trailer.Set64(LSMTIndexEntries, uint64(len(f.Segments)))
}

// Find is where in the file the sector of the disk is stored; false if the layer
// does not have it.
func (f *LSMT) Find(sector uint64) (at uint64, found bool) {
	for _, s := range f.Segments {
		if !s.Zeroed && s.Start <= sector && sector < s.Start+s.Sectors {
			return s.At + sector - s.Start, true
		}
	}
	return 0, false
}

// Bytes is the file, which is a layer's payload as it is: a ZFile around it is
// a matter of choice.
func (f *LSMT) Bytes() []byte {
	file := slices.Concat(f.Header, f.Data)
	for _, s := range f.Segments {
		hi := s.At
		if s.Zeroed {
			hi |= 1 << 55
		}
		file = binary.LittleEndian.AppendUint64(file, s.Start&(1<<50-1)|s.Sectors<<50)
		file = binary.LittleEndian.AppendUint64(file, hi)
	}
	file = append(file, make([]byte, (Sector-len(file)%Sector)%Sector)...)
	return append(file, f.Trailer...)
}

// Overwrite changes what the disk holds from off on, which must be stored in f.
func (f *LSMT) Overwrite(off int64, p []byte) error {
	for i, b := range p {
		byteAt := uint64(off) + uint64(i)
		sector, found := f.Find(byteAt / Sector)
		if !found {
			return fmt.Errorf("overwrite byte %d of the disk: the layer does not store it", byteAt)
		}
		f.Data[sector*Sector+byteAt%Sector-lsmtHeader] = b
	}
	return nil
}

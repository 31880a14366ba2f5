package gzindex

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

const (
	readerInput  = 256 << 10 // more than maxHeader
	readerOutput = WindowSize + 256<<10
)

// Visit is told of a place where a block begins, and of the output before it, at
// most WindowSize bytes, which are valid during the call. The first place is behind
// the first member's header; the first block of every other member is one too.
type Visit func(at Checkpoint, window []byte) error

// Reader inflates a gzip file with all its members, checks their checksums, and
// tells where blocks begin. It is not safe for concurrent use.
type Reader struct {
	r     io.Reader
	visit Visit
	f     inflater
	srcAt int64 // of src[0] in the file
	dstAt int64 // of dst[0] in the output
	read  int   // offset in dst of what Read returns next
	ended bool  // r has
	err   error

	members   int
	crc       uint32
	summed    int   // offset in dst up to which crc goes
	memberOut int64 // output before the member
}

// NewReader returns a Reader of r that calls visit, which may be nil, while it is
// read. It reads r in large pieces and keeps 550 KiB of memory.
func NewReader(r io.Reader, visit Visit) *Reader {
	return &Reader{r: r, visit: visit, f: inflater{
		src: make([]byte, 0, readerInput), dst: make([]byte, readerOutput),
	}}
}

// Read implements io.Reader. Errors that blame the bytes wrap ErrCorrupt; those of
// the underlying reader and of visit come as they are.
func (r *Reader) Read(p []byte) (int, error) {
	for r.read == r.f.out && r.err == nil {
		r.err = r.advance()
	}
	n := copy(p, r.f.dst[r.read:r.f.out])
	r.read += n
	if n > 0 || len(p) == 0 {
		return n, nil
	}
	return 0, r.err
}

// Offsets are how many bytes have been inflated, and how many consumed so far.
func (r *Reader) Offsets() (out, in int64) {
	return r.dstAt + int64(r.f.out), r.srcAt + int64(r.f.used()+7)/8
}

// advance inflates until there is output or an error, once all output was read.
func (r *Reader) advance() error {
	r.slide()
	for {
		s, err := r.f.run()
		if err != nil {
			return err
		}
		switch s {
		case full:
			return nil
		case needInput:
			if r.f.out > r.read { // give it away before waiting for more
				return nil
			}
			err = r.more()
		case atBlock:
			err = r.tell()
		case atMember:
			err = r.checkMember()
		}
		if err != nil {
			return err
		}
	}
}

// slide makes room: it keeps a window of what has been read.
func (r *Reader) slide() {
	f := &r.f
	n := f.out - WindowSize
	if n <= 0 {
		return
	}
	r.sum()
	copy(f.dst, f.dst[n:f.out])
	f.out -= n
	f.floor = max(0, f.floor-n)
	r.read, r.summed, r.dstAt = f.out, f.out, r.dstAt+int64(n)
}

// more reads on behind what is left of the input.
func (r *Reader) more() error {
	f := &r.f
	if r.ended {
		if f.phase == phaseMember && f.pos == len(f.src) && r.members > 0 {
			return io.EOF
		}
		return fmt.Errorf("%w: %w", ErrCorrupt, io.ErrUnexpectedEOF)
	}
	f.giveBackBytes()
	left := copy(f.src[:cap(f.src)], f.src[f.pos:])
	r.srcAt += int64(f.pos)
	f.pos = 0
	n, err := io.ReadAtLeast(r.r, f.src[left:cap(f.src)], 1)
	f.src = f.src[:left+n]
	if errors.Is(err, io.EOF) {
		r.ended = true
		return nil
	}
	return err
}

func (r *Reader) tell() error {
	if r.visit == nil {
		return nil
	}
	f := &r.f
	used := f.used()
	at := Checkpoint{
		Out:  r.dstAt + int64(f.out),
		In:   r.srcAt + int64(used+7)/8,
		Bits: uint8(-used & 7),
	}
	return r.visit(at, f.dst[max(0, f.out-WindowSize):f.out])
}

// sum brings the checksum up to date.
func (r *Reader) sum() {
	r.crc = crc32.Update(r.crc, crc32.IEEETable, r.f.dst[r.summed:r.f.out])
	r.summed = r.f.out
}

func (r *Reader) checkMember() error {
	r.sum()
	crc, size := binary.LittleEndian.Uint32(r.f.trailer[:]), binary.LittleEndian.Uint32(r.f.trailer[4:])
	out := r.dstAt + int64(r.f.out)
	if got := uint32(out - r.memberOut); crc != r.crc || size != got {
		return corrupt("member %d has the CRC %#08x and %d bytes, not %#08x and %d", r.members, r.crc, got, crc, size)
	}
	r.members++
	r.crc, r.memberOut = 0, out
	return nil
}

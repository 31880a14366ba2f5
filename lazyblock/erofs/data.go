package erofs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
)

// ErrDiskFull is wrapped by errors about a disk too small for what it is to hold.
var ErrDiskFull = errors.New("disk full")

const (
	dataBuffer = 1 << 20 // bytes gathered before they are written

	// maxRuns bounds the separate runs of blocks that one Data writes: a layer
	// index holds a million (overlaybd). Beyond it zeros are written as well.
	maxRuns = 500_000
)

// Data appends contents to a disk that only grows, block by block. Blocks of
// zeros are left out: what was never written reads as zeros.
type Data struct {
	w         io.WriterAt
	blockBits uint8
	limit     uint64 // blocks of the disk
	next      uint64 // the block that buf begins at
	buf       []byte
	zeros     []byte

	runs int
	tail uint64 // block behind the last one written
}

// NewData appends to w from block start on; the disk ends at block limit.
// It writes in ascending order, whole blocks, each at most once.
func NewData(w io.WriterAt, blockBits uint8, start, limit uint64) *Data {
	return &Data{
		w: w, blockBits: blockBits, limit: min(limit, maxBlocks), next: start,
		buf: make([]byte, 0, dataBuffer), zeros: make([]byte, 1<<blockBits),
	}
}

// Next is the block at which the next content will begin.
func (d *Data) Next() uint64 { return d.next + uint64(len(d.buf))>>d.blockBits }

// Append copies exactly size bytes from r to whole blocks of their own. After
// an error d must not be used any more.
func (d *Data) Append(r io.Reader, size int64) (Extent, error) {
	if size == 0 {
		return Extent{}, nil
	}
	extent := Extent{Block: d.Next()}
	blocks := uint64(size-1)>>d.blockBits + 1
	if extent.Block+blocks > d.limit {
		return Extent{}, fmt.Errorf("append %d bytes at block %d of %d: %w", size, extent.Block, d.limit, ErrDiskFull)
	}
	for left := size; left > 0; {
		if len(d.buf) == cap(d.buf) {
			if err := d.Flush(); err != nil {
				return Extent{}, err
			}
		}
		n := min(left, int64(cap(d.buf)-len(d.buf)))
		room := d.buf[len(d.buf) : len(d.buf)+int(n)]
		if _, err := io.ReadFull(r, room); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return Extent{}, err
		}
		d.buf = d.buf[:len(d.buf)+int(n)]
		left -= n
	}
	d.pad()
	return extent, nil
}

// write appends p and zeros behind it, without regard to blocks.
func (d *Data) write(p []byte, zeros int) error {
	for len(p) > 0 || zeros > 0 {
		if len(d.buf) == cap(d.buf) {
			if err := d.Flush(); err != nil {
				return err
			}
		}
		if len(p) > 0 {
			n := min(len(p), cap(d.buf)-len(d.buf))
			d.buf, p = append(d.buf, p[:n]...), p[n:]
			continue
		}
		n := min(zeros, cap(d.buf)-len(d.buf))
		clear(d.buf[len(d.buf) : len(d.buf)+n])
		d.buf, zeros = d.buf[:len(d.buf)+n], zeros-n
	}
	return nil
}

// pad fills the last block with zeros. The buffer's capacity is whole blocks.
func (d *Data) pad() {
	padded := align(len(d.buf), 1<<d.blockBits)
	clear(d.buf[len(d.buf):padded])
	d.buf = d.buf[:padded]
}

// Flush writes what is still in memory; it must be called when all is appended.
func (d *Data) Flush() error {
	block := 1 << d.blockBits
	for from := 0; from < len(d.buf); {
		to := from
		for to < len(d.buf) && !d.skips(d.buf[to:to+block]) {
			to += block
		}
		if to == from {
			from += block
			continue
		}
		at := d.next + uint64(from)>>d.blockBits
		if at != d.tail {
			d.runs++
		}
		if _, err := d.w.WriteAt(d.buf[from:to], int64(at)<<d.blockBits); err != nil {
			return fmt.Errorf("write disk block %d: %w", at, err)
		}
		d.tail = at + uint64(to-from)>>d.blockBits
		from = to
	}
	d.next += uint64(len(d.buf)) >> d.blockBits
	d.buf = d.buf[:0]
	return nil
}

func (d *Data) skips(block []byte) bool {
	return d.runs < maxRuns && bytes.Equal(block, d.zeros)
}

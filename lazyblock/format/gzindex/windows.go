package gzindex

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/adler32"

	"github.com/klauspost/compress/flate"
)

// Windows keeps the windows of an index compressed: machine code to half its size,
// which for a layer of 1 GiB in spans of 4 MiB leaves 4 MiB. It is safe for concurrent
// use once nothing is added any more.
type Windows struct {
	packed []byte  // one DEFLATE stream after the other
	ends   []int64 // in packed
	sums   []uint32
	sizes  []uint16 // less one; of an empty window ends tells

	w        *flate.Writer
	decoders decoders
}

// Len is how many windows there are.
func (w *Windows) Len() int {
	if w == nil {
		return 0
	}
	return len(w.ends)
}

// Add adds the window of the next checkpoint: the output before it, at most
// WindowSize bytes of it. It keeps no reference to window.
func (w *Windows) Add(window []byte) error {
	if len(window) > WindowSize {
		return fmt.Errorf("window of %d bytes, more than %d", len(window), WindowSize)
	}
	if len(window) > 0 {
		out := bytes.NewBuffer(w.packed)
		if w.w == nil {
			var err error
			if w.w, err = flate.NewWriter(nil, flate.BestSpeed); err != nil {
				return fmt.Errorf("compress windows: %w", err)
			}
		}
		w.w.Reset(out)
		if _, err := w.w.Write(window); err != nil {
			return fmt.Errorf("compress window: %w", err)
		}
		if err := w.w.Close(); err != nil {
			return fmt.Errorf("compress window: %w", err)
		}
		w.packed = out.Bytes()
	}
	w.note(len(window), adler32.Checksum(window))
	return nil
}

// The frame of a zlib stream (RFC 1950): two bytes before, a checksum behind.
const (
	zlibHead = 2
	zlibTail = 4
)

// AddZlib adds a window of WindowSize bytes as it is stored elsewhere: as a zlib
// stream. Whether that holds a window is found out when it is used.
func (w *Windows) AddZlib(stream []byte) error {
	if len(stream) <= zlibHead+zlibTail || stream[0]&15 != 8 || binary.BigEndian.Uint16(stream)%31 != 0 || stream[1]&0x20 != 0 {
		return corrupt("window is no zlib stream: %.8x", stream)
	}
	end := len(stream) - zlibTail
	w.packed = append(w.packed, stream[zlibHead:end]...)
	w.note(WindowSize, binary.BigEndian.Uint32(stream[end:]))
	return nil
}

func (w *Windows) note(size int, sum uint32) {
	w.ends = append(w.ends, int64(len(w.packed)))
	w.sums = append(w.sums, sum)
	w.sizes = append(w.sizes, uint16(max(size, 1)-1))
}

// truncate keeps the first n windows.
func (w *Windows) truncate(n int) {
	w.ends, w.sums, w.sizes = w.ends[:n], w.sums[:n], w.sizes[:n]
}

// Done lets go of what only adding needs.
func (w *Windows) Done() {
	w.w = nil
	w.packed = bytes.Clone(w.packed)
}

// Window appends window i to buf.
func (w *Windows) Window(buf []byte, i int) ([]byte, error) {
	var room [WindowSize]byte
	window, err := w.unpack(i, room[:])
	return append(buf, window...), err
}

// unpack returns window i in room, which has WindowSize bytes.
func (w *Windows) unpack(i int, room []byte) ([]byte, error) {
	begin := int64(0)
	if i > 0 {
		begin = w.ends[i-1]
	}
	packed := w.packed[begin:w.ends[i]]
	if len(packed) == 0 {
		return nil, nil
	}
	d := w.decoders.borrow()
	defer w.decoders.giveBack(d)
	room = room[:int(w.sizes[i])+1]
	d.begin(room, packed, 0, nil)
	for !d.final || d.phase != phaseTrailer {
		s, err := d.run()
		if err != nil {
			return nil, fmt.Errorf("unpack window: %w", err)
		}
		if d.final && d.phase == phaseTrailer {
			break
		}
		if s != atBlock {
			return nil, corrupt("window of %d bytes does not unpack", len(room))
		}
	}
	if got := adler32.Checksum(room); d.out != len(room) || got != w.sums[i] {
		return nil, corrupt("window has the checksum %#08x after %d bytes, not %#08x after %d", got, d.out, w.sums[i], len(room))
	}
	return room, nil
}

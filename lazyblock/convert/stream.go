package convert

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// maxZstdWindow is what a zstd frame may ask of memory: as much as `zstd -d`
// grants without being told otherwise.
const maxZstdWindow = 128 << 20

// decompress undoes the compression that the first bytes of r show, whatever a
// media type claims: gzip, zstd or none. Close does not close r.
func decompress(r io.Reader) (io.ReadCloser, error) {
	buffered := bufio.NewReaderSize(r, 64<<10)
	magic, err := buffered.Peek(4)
	if err != nil && len(magic) == 0 && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}): // RFC 1952
		return gzip.NewReader(buffered)
	case bytes.Equal(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}), // RFC 8878: a frame, a skippable frame
		len(magic) == 4 && magic[0]&0xf0 == 0x50 && bytes.Equal(magic[1:], []byte{0x2a, 0x4d, 0x18}):
		decoder, err := zstd.NewReader(buffered, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxZstdWindow))
		if err != nil {
			return nil, fmt.Errorf("open zstd stream: %w", err)
		}
		return decoder.IOReadCloser(), nil
	default:
		return io.NopCloser(buffered), nil
	}
}

const (
	aheadBuffers = 8
	aheadSize    = 256 << 10
)

// ahead reads from r in a goroutine of its own, a few buffers in advance.
// Close, which may be called at any time, stops and waits for it.
type ahead struct {
	full  chan chunk    // filled, in order; closed by the goroutine
	empty chan []byte   // to be filled
	stop  chan struct{} // closed by Close
	now   chunk
	err   error // what Read returns from now on
}

type chunk struct {
	whole []byte // the buffer
	rest  []byte // what of it is not read yet
	err   error  // behind rest
}

func readAhead(r io.Reader) *ahead {
	a := &ahead{full: make(chan chunk, aheadBuffers), empty: make(chan []byte, aheadBuffers), stop: make(chan struct{})}
	for range aheadBuffers {
		a.empty <- make([]byte, aheadSize)
	}
	go a.fill(r) // Close waits for it
	return a
}

func (a *ahead) fill(r io.Reader) {
	defer close(a.full)
	for {
		var buf []byte
		select {
		case buf = <-a.empty:
		case <-a.stop:
			return
		}
		var n int
		var err error
		for n < len(buf) && err == nil {
			var more int
			more, err = r.Read(buf[n:])
			n += more
		}
		select {
		case a.full <- chunk{whole: buf, rest: buf[:n], err: err}:
		case <-a.stop:
			return
		}
		if err != nil {
			return
		}
	}
}

func (a *ahead) Read(p []byte) (int, error) {
	for len(a.now.rest) == 0 {
		if a.err == nil {
			a.err = a.now.err
		}
		if a.err != nil {
			return 0, a.err
		}
		if a.now.whole != nil {
			a.empty <- a.now.whole // has room for all buffers there are
		}
		var ok bool
		if a.now, ok = <-a.full; !ok {
			a.now, a.err = chunk{}, io.ErrClosedPipe
		}
	}
	n := copy(p, a.now.rest)
	a.now.rest = a.now.rest[n:]
	return n, nil
}

// Close stops the reading and waits until it has. Where the source may block
// it must be closed first.
func (a *ahead) Close() {
	close(a.stop)
	for range a.full {
		// drained until the goroutine closes it
	}
}

package plainlayer

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/klauspost/compress/zstd"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/lazyblock"
	"github.com/referee-cri/referee/lazyblock/format/span"
)

// maxFrame is how many bytes a frame may decode to: whoever wants one of them has to
// decode all.
const maxFrame = span.DefaultMemory

// Of a block, source: RFC 8878, section 3.1.1.2.
const (
	blockHeader   = 3
	blockRLE      = 1 // one byte, repeated
	blockReserved = 3
	maxBlock      = 128 << 10 // as it is stored
	checksumSize  = 4
)

// frames decodes a zstd file frame by frame, and learns where these are: each can be
// decoded by itself.
type frames struct {
	stored  *bufio.Reader
	decoder *zstd.Decoder
	cut     func(at int64) // called where a frame's content begins

	off, at int64 // behind the frames read so far: stored, decoded
	spans   []span.Span
	frame   []byte // of the last: stored,
	decoded []byte // and decoded
	rest    []byte // of decoded, what Read has not returned
}

func newFrames(stored io.Reader, cut func(at int64)) (*frames, error) {
	decoder, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxMemory(maxFrame))
	if err != nil {
		return nil, fmt.Errorf("decode zstd: %w", err)
	}
	return &frames{stored: bufio.NewReaderSize(stored, maxBlock), decoder: decoder, cut: cut}, nil
}

// Read implements io.Reader. Errors that blame the bytes have reason.FormatCorrupt.
func (f *frames) Read(p []byte) (int, error) {
	for len(f.rest) == 0 {
		if err := f.next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, f.rest)
	f.rest = f.rest[n:]
	return n, nil
}

// next reads one frame.
func (f *frames) next() error {
	head, err := f.stored.Peek(zstd.HeaderMaxSize)
	if len(head) == 0 || err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	var header zstd.Header
	if err := header.Decode(head); err != nil {
		return reason.Errorf(reason.FormatCorrupt, "zstd frame at %d: %w", f.off, err)
	}
	if header.Skippable {
		size := int64(header.HeaderSize) + int64(header.SkippableSize)
		if _, err := io.CopyN(io.Discard, f.stored, size); err != nil {
			return f.shortened(err)
		}
		f.off += size
		return nil
	}
	if err := f.readFrame(header); err != nil {
		return err
	}
	f.decoded, err = f.decoder.DecodeAll(f.frame, f.decoded[:0])
	switch {
	case errors.Is(err, zstd.ErrDecoderSizeExceeded), errors.Is(err, zstd.ErrWindowSizeExceeded):
		return reason.Errorf(reason.NoMatch, "it has no table and a zstd frame of more than %d bytes", maxFrame)
	case err != nil:
		return reason.Errorf(reason.FormatCorrupt, "zstd frame at %d: %w", f.off, err)
	}
	if len(f.decoded) > 0 {
		f.cut(f.at)
		f.spans = append(f.spans, span.Span{At: f.at, Size: int64(len(f.decoded)), Off: f.off, Stored: int64(len(f.frame))})
	}
	f.off, f.at, f.rest = f.off+int64(len(f.frame)), f.at+int64(len(f.decoded)), f.decoded
	return nil
}

// readFrame reads a frame as it is stored.
func (f *frames) readFrame(header zstd.Header) error {
	f.frame = f.frame[:0]
	if err := f.take(header.HeaderSize); err != nil {
		return err
	}
	for last := false; !last; {
		at := len(f.frame)
		if err := f.take(blockHeader); err != nil {
			return err
		}
		b := f.frame[at:]
		word := int(b[0]) | int(b[1])<<8 | int(b[2])<<16
		last = word&1 != 0
		kind, size := word>>1&3, word>>3
		switch {
		case kind == blockReserved || size > maxBlock:
			return reason.Errorf(reason.FormatCorrupt, "zstd frame at %d: block of %d bytes and kind %d", f.off, size, kind)
		case kind == blockRLE:
			size = 1
		}
		if err := f.take(size); err != nil {
			return err
		}
	}
	if header.HasCheckSum {
		return f.take(checksumSize)
	}
	return nil
}

// take appends n bytes to the frame.
func (f *frames) take(n int) error {
	at := len(f.frame)
	f.frame = slices.Grow(f.frame, n)[:at+n]
	_, err := io.ReadFull(f.stored, f.frame[at:])
	return f.shortened(err)
}

// shortened blames the bytes where they end too early.
func (f *frames) shortened(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return reason.Errorf(reason.FormatCorrupt, "zstd frame at %d: it ends early", f.off)
	}
	return err
}

// content reads the frames that Read has been through, each compared with its sum.
func (f *frames) content(blob lazyblock.RangeReader, sums span.Digests, memory *span.Memory) (*span.Reader, error) {
	decoder := f.decoder
	decode := func(i int, dst, frame []byte) error {
		out, err := decoder.DecodeAll(frame, dst[:0:len(dst)])
		if err != nil {
			return err
		}
		if len(out) != len(dst) {
			return fmt.Errorf("frame of %d bytes decodes to %d", len(dst), len(out))
		}
		return sums.Verify(i, out)
	}
	return span.New(blob, f.spans, decode, span.Options{Memory: memory})
}

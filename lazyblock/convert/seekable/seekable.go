// Package seekable compresses a stream in the zstd seekable format: frames that can
// be decompressed one by one, and behind them, in a frame that every decoder passes
// over, a table of their lengths and checksums.
//
// Source: contrib/seekable_format of the zstd project, version 0.1.0 of its
// specification. Equal input gives equal bytes. It reads nothing back and starts no
// goroutines.
package seekable

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/cespare/xxhash/v2"
	"github.com/klauspost/compress/zstd"
)

// FrameSize is how many plain bytes one frame holds: what reading one of them costs.
const FrameSize = 128 << 10

// The seek table.
const (
	skippableMagic = 0x184D2A5E
	footerMagic    = 0x8F92EAB1
	hasChecksums   = 1 << 7
	entrySize      = 12
	footerSize     = 9
	maxFrames      = 0x8000000 // of the specification
)

// Compress compresses what r has left to w, and returns how many bytes it wrote.
func Compress(ctx context.Context, w io.Writer, r io.Reader) (int64, error) {
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedBetterCompression), zstd.WithWindowSize(FrameSize))
	if err != nil {
		return 0, fmt.Errorf("start zstd encoder: %w", err)
	}
	defer func() { _ = encoder.Close() }() // nothing is buffered
	var written int64
	var table, packed []byte
	plain := make([]byte, FrameSize)
	for ended := false; !ended; {
		if err := ctx.Err(); err != nil {
			return written, err
		}
		n, err := io.ReadFull(r, plain)
		ended = errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		if err != nil && !ended {
			return written, err
		}
		if n == 0 {
			break
		}
		packed = encoder.EncodeAll(plain[:n], packed[:0])
		if _, err := w.Write(packed); err != nil {
			return written, err
		}
		written += int64(len(packed))
		table = appendEntry(table, len(packed), plain[:n])
	}
	if len(table)/entrySize > maxFrames {
		return written, fmt.Errorf("%d frames, more than %d", len(table)/entrySize, maxFrames)
	}
	n, err := w.Write(frame(table))
	return written + int64(n), err
}

// appendEntry appends what the table says of a frame of size bytes.
func appendEntry(table []byte, size int, plain []byte) []byte {
	le := binary.LittleEndian
	table = le.AppendUint32(table, uint32(size))
	table = le.AppendUint32(table, uint32(len(plain)))
	return le.AppendUint32(table, uint32(xxhash.Sum64(plain))) // its least significant bits
}

// frame is the table with its header and footer.
func frame(table []byte) []byte {
	le := binary.LittleEndian
	b := le.AppendUint32(nil, skippableMagic)
	b = le.AppendUint32(b, uint32(len(table)+footerSize))
	b = append(b, table...)
	b = le.AppendUint32(b, uint32(len(table)/entrySize))
	b = append(b, hasChecksums)
	return le.AppendUint32(b, footerMagic)
}

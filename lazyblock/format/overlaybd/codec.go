package overlaybd

import (
	"errors"
	"fmt"
	"runtime"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// Algorithm is how the blocks of a ZFile are compressed.
type Algorithm uint8

// The algorithms, numbered as in a ZFile header (spec 3.1). The zero value
// means LZ4 to the writer; number 0 in a file is an algorithm that was never
// implemented.
const (
	LZ4  Algorithm = 1
	Zstd Algorithm = 2
)

func (a Algorithm) String() string {
	switch a {
	case LZ4:
		return "lz4"
	case Zstd:
		return "zstd"
	default:
		return fmt.Sprintf("algorithm %d", uint8(a))
	}
}

var errShortBlock = errors.New("block decodes to another length")

// decoder expands one stored block into exactly dst. It is safe for
// concurrent use.
type decoder interface {
	decode(dst, stored []byte) error
}

func newDecoder(a Algorithm) (decoder, error) {
	switch a {
	case LZ4:
		return lz4Decoder{}, nil
	case Zstd:
		// A frame may claim any size; what it yields is limited to the
		// block it is for.
		d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderLowmem(true),
			zstd.WithDecodeAllCapLimit(true))
		return zstdDecoder{d}, err
	default:
		return nil, fmt.Errorf("unknown compression %s", a)
	}
}

type lz4Decoder struct{}

func (lz4Decoder) decode(dst, stored []byte) error {
	n, err := lz4.UncompressBlock(stored, dst)
	if err == nil && n != len(dst) {
		err = errShortBlock
	}
	return err
}

type zstdDecoder struct{ d *zstd.Decoder }

func (z zstdDecoder) decode(dst, stored []byte) error {
	out, err := z.d.DecodeAll(stored, dst[:0:len(dst)])
	if err == nil && len(out) != len(dst) {
		err = errShortBlock
	}
	return err
}

// encoder appends the stored form of one block to dst. One goroutine uses it.
type encoder interface {
	encode(dst, block []byte) ([]byte, error)
}

// newEncoders returns n encoders whose output depends on their input alone.
func newEncoders(a Algorithm, n int) ([]encoder, error) {
	encoders := make([]encoder, n)
	switch a {
	case LZ4:
		for i := range encoders {
			encoders[i] = &lz4Encoder{}
		}
	case Zstd:
		// One segment: the content size stands in the frame header, as in
		// the frames that stock writes.
		z, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithSingleSegment(true),
			zstd.WithEncoderCRC(false), zstd.WithWindowSize(maxWriterBlock), zstd.WithEncoderConcurrency(n))
		if err != nil {
			return nil, err
		}
		for i := range encoders {
			encoders[i] = zstdEncoder{z}
		}
	default:
		return nil, fmt.Errorf("unknown compression %s", a)
	}
	return encoders, nil
}

// lz4Encoder writes what LZ4_compress_default writes, so that equal disks give
// blobs equal to stock's, digest and all.
type lz4Encoder struct{ c lz4.CompressorCCompat }

func (e *lz4Encoder) encode(dst, block []byte) ([]byte, error) {
	at := len(dst)
	bound := at + lz4.CompressBlockBound(len(block))
	for cap(dst) < bound {
		dst = append(dst[:cap(dst)], 0)
	}
	n, err := e.c.CompressBlock(block, dst[at:bound])
	if err == nil && n == 0 {
		err = errors.New("lz4 gave no output")
	}
	return dst[:at+n], err
}

type zstdEncoder struct{ z *zstd.Encoder }

func (e zstdEncoder) encode(dst, block []byte) ([]byte, error) {
	return e.z.EncodeAll(block, dst), nil
}

// cores is how many blocks are compressed at a time.
func cores() int { return runtime.GOMAXPROCS(0) }

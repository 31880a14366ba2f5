package nydus

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"lukechampine.com/blake3"
)

// compression is how chunks, or a blob's metadata, are compressed, by its number
// in a row of the table of blobs.
type compression uint32

const (
	compressionNone compression = 0
	compressionLZ4  compression = 1 // blocks without a frame
	compressionGzip compression = 2
	compressionZstd compression = 3
)

func (c compression) check() error {
	if c > compressionZstd {
		return refused("compression %d is not known", c)
	}
	return nil
}

// digestAlgorithm is that of chunks.
type digestAlgorithm uint32

const (
	digestBlake3 digestAlgorithm = 0
	digestSHA256 digestAlgorithm = 1
)

func (d digestAlgorithm) check() error {
	if d > digestSHA256 {
		return refused("digest algorithm %d is not known", d)
	}
	return nil
}

func (d digestAlgorithm) of(p []byte) [32]byte {
	if d == digestBlake3 {
		return blake3.Sum256(p)
	}
	return sha256.Sum256(p)
}

var errLength = errors.New("it decodes to another length")

// decoder decompresses. It is safe for concurrent use.
type decoder struct{ zstd *zstd.Decoder }

func newDecoder() (*decoder, error) {
	// A frame may claim any size; what it yields is limited to the chunk it is for.
	z, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderLowmem(true), zstd.WithDecodeAllCapLimit(true))
	return &decoder{z}, err
}

// decode fills dst from src.
func (d *decoder) decode(c compression, dst, src []byte) error {
	n := 0
	var err error
	switch c {
	case compressionNone:
		if n = len(src); n == len(dst) {
			copy(dst, src)
		}
	case compressionLZ4:
		n, err = lz4.UncompressBlock(src, dst)
	case compressionGzip:
		n, err = gunzip(dst, src)
	case compressionZstd:
		var out []byte
		out, err = d.zstd.DecodeAll(src, dst[:0:len(dst)])
		n = len(out)
	default:
		return fmt.Errorf("compression %d", c)
	}
	if err == nil && n != len(dst) {
		err = errLength
	}
	return err
}

func gunzip(dst, src []byte) (int, error) {
	stream, err := gzip.NewReader(bytes.NewReader(src))
	if err != nil {
		return 0, err
	}
	n, err := io.ReadFull(stream, dst)
	if err != nil {
		return n, err
	}
	var more [1]byte // the trailer's checksum is looked at with the end
	if extra, err := stream.Read(more[:]); extra > 0 || !errors.Is(err, io.EOF) {
		return n + extra, err
	}
	return n, nil
}

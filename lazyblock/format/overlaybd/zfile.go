package overlaybd

import (
	"context"
	"encoding/binary"
	"fmt"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/lazyblock"
)

// crcSize is the length of the CRC behind each block.
const crcSize = 4

// zfile is an opened ZFile: where its blocks are and how to expand them.
type zfile struct {
	at        int64 // where the ZFile begins in the blob
	size      int64 // of the file within
	blockSize int64
	verify    bool
	dec       decoder
	index     blockIndex // offsets from the start of the ZFile
}

// indexPiece is how much of an index is held while it is packed.
const indexPiece = 4 << 20

// openZFile reads header, index and, where the header was written before the
// index was known, the trailer of the ZFile at p (spec 3.3).
func openZFile(ctx context.Context, r *readAhead, p span, limits *openLimits) (*zfile, error) {
	hdr, err := readZFileHeader(ctx, r, p)
	if err != nil {
		return nil, err
	}
	if err := hdr.check(p.len); err != nil {
		return nil, err
	}
	if err := limits.addBlocks(hdr.indexEntries); err != nil {
		return nil, err
	}
	z := &zfile{at: p.off, size: int64(hdr.originalSize), blockSize: int64(hdr.blockSize), verify: hdr.verify}
	if z.dec, err = limits.decoder(hdr.algorithm); err != nil {
		return nil, reason.Errorf(reason.FormatCorrupt, "ZFile: %w", err)
	}
	if err := z.readIndex(ctx, r, p, &hdr, limits); err != nil {
		return nil, fmt.Errorf("read ZFile index: %w", err)
	}
	return z, nil
}

func readZFileHeader(ctx context.Context, r *readAhead, p span) (zfileHeader, error) {
	var buf [zfileHeaderSize]byte
	if p.len < 2*zfileHeaderSize {
		return zfileHeader{}, reason.Errorf(reason.FormatCorrupt, "ZFile of %d bytes", p.len)
	}
	if err := lazyblock.ReadFull(ctx, r, buf[:], p.off); err != nil {
		return zfileHeader{}, fmt.Errorf("read ZFile header: %w", err)
	}
	hdr, err := parseZFileHeader(buf[:])
	if err != nil {
		return zfileHeader{}, err
	}
	if hdr.flags&zfileIsHeader == 0 {
		return zfileHeader{}, reason.Errorf(reason.FormatCorrupt, "ZFile begins with a trailer: flags %#x", hdr.flags)
	}
	if hdr.flags&zfileOverwrite != 0 {
		return hdr, nil
	}

	if err := lazyblock.ReadFull(ctx, r, buf[:], p.end()-zfileHeaderSize); err != nil {
		return zfileHeader{}, fmt.Errorf("read ZFile trailer: %w", err)
	}
	trailer, err := parseZFileHeader(buf[:])
	if err != nil {
		return zfileHeader{}, fmt.Errorf("parse ZFile trailer: %w", err)
	}
	if trailer.flags&(zfileIsHeader|zfileIsData|zfileSealed) != zfileIsData|zfileSealed {
		return zfileHeader{}, reason.Errorf(reason.FormatCorrupt, "ZFile ends without a trailer: flags %#x", trailer.flags)
	}
	return trailer, nil
}

// readIndex packs the index piece by piece, so that a false count costs no
// more memory than bytes came over the network.
func (z *zfile) readIndex(ctx context.Context, r *readAhead, p span, hdr *zfileHeader, limits *openLimits) error {
	at := span{p.off + int64(hdr.indexOffset), 4 * int64(hdr.indexEntries)}
	if n := at.len + lsmtTailGuess; at.len <= maxEnsure && !r.covers(at) {
		if err := limits.extra.Acquire(ctx, n); err != nil {
			return err
		}
		r.charged = n
	}
	// The LSMT index and trailer are stored right before: fetch them along.
	if err := r.ensure(ctx, at, lsmtTailGuess); err != nil {
		return err
	}
	z.index.start = zfileHeaderSize + int64(hdr.dictSize)
	least, most := storedBounds(hdr)
	buf := make([]byte, min(at.len, indexPiece))
	crc := uint32(0)
	for off := int64(0); off < at.len; off += int64(len(buf)) {
		buf = buf[:min(int64(len(buf)), at.len-off)]
		if err := lazyblock.ReadFull(ctx, r, buf, at.off+off); err != nil {
			return err
		}
		crc = rawCRC(crc, buf)
		if err := z.index.add(buf, least, most); err != nil {
			return reason.Wrap(reason.FormatCorrupt, err)
		}
	}
	if hdr.flags&zfileDigest != 0 && crc != hdr.indexCRC {
		return reason.Errorf(reason.FormatCorrupt, "CRC is %#08x, want %#08x", crc, hdr.indexCRC)
	}
	if z.index.start != int64(hdr.indexOffset) {
		return reason.Errorf(reason.FormatCorrupt, "blocks end at %d, not at the index at %d", z.index.start, hdr.indexOffset)
	}
	z.index.clip()
	return nil
}

// storedBounds are the lengths that a stored block can have. Neither
// compressor makes a block of n bytes longer than n + n/128 + 128.
func storedBounds(hdr *zfileHeader) (least, most uint32) {
	least, most = 1, hdr.blockSize+hdr.blockSize/128+128
	if hdr.verify {
		least, most = least+crcSize, most+crcSize
	}
	return least, most
}

// length is the uncompressed length of block i: the last one may be short.
func (z *zfile) length(i int) int64 {
	return min(z.blockSize, z.size-int64(i)*z.blockSize)
}

// span is where the stored blocks first to last lie in the blob.
func (z *zfile) span(first, last int) span {
	s := z.index.span(first, last)
	s.off += z.at
	return s
}

// expand checks the CRC of a stored block and decodes it into dst, which has
// the block's length.
func (z *zfile) expand(dst, stored []byte) error {
	if z.verify {
		n := len(stored) - crcSize
		if want, got := binary.LittleEndian.Uint32(stored[n:]), rawCRC(blockSeed, stored[:n]); want != got {
			return fmt.Errorf("CRC is %#08x, want %#08x", got, want)
		}
		stored = stored[:n]
	}
	return z.dec.decode(dst, stored)
}

// expandOrRefetch is expand of block i with one more attempt on fresh bytes:
// what is cached on the node may have rotted.
func (z *zfile) expandOrRefetch(ctx context.Context, r lazyblock.RangeReader, i int, dst, stored []byte) error {
	err := z.expand(dst, stored)
	if err == nil {
		return nil
	}
	if cache, ok := r.(lazyblock.Invalidator); ok {
		at := z.span(i, i)
		_ = cache.Invalidate(ctx, at.off, at.len) // what counts is that they are read anew now
		if err := lazyblock.ReadFull(ctx, r, stored, at.off); err != nil {
			return fmt.Errorf("fetch ZFile block %d again: %w", i, err)
		}
		err = z.expand(dst, stored)
	}
	if err != nil {
		return reason.Errorf(reason.FormatCorrupt, "expand ZFile block %d: %w", i, err)
	}
	return nil
}

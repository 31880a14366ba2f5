package nydus

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"slices"

	"github.com/referee-cri/referee/lazyblock/format/gzindex"
	"github.com/referee-cri/referee/lazyblock/format/span"
)

// chunk is a chunk of a blob.
type chunk struct {
	index  uint32 // in the blob
	at     int64  // uncompressed: address and length
	size   int64
	off    int64 // in the blob
	stored int64
	packed bool // compressed; else it is stored as it is

	batch  int32 // what it is compressed together with, -1: nothing
	within int64 // where it begins in that

	digest *[32]byte // nil: there is none
	crc    *uint32   // CRC-32C; nil: there is none
}

// Flags of chunks, in the bootstrap and in blobs.
const (
	chunkCompressed = 1
	chunkZran       = 2 // only in blobs
	chunkEncrypted  = 4 // only in the bootstrap
	chunkBatch      = 8 // in the bootstrap; blobs have numbers of their own
	chunkCRC        = 0x10
)

// parseRows reads the bootstrap's table of chunks, parted by blob.
func (b *bootstrap) parseRows() ([][]chunk, error) {
	parted := make([][]chunk, len(b.blobs))
	le := binary.LittleEndian
	for row := range slices.Chunk(b.chunks, chunkRowSize) {
		blob, flags := int(le.Uint32(row[32:])), le.Uint32(row[36:])
		c := chunk{
			index: le.Uint32(row[72:]), at: int64(le.Uint64(row[56:])), size: int64(le.Uint32(row[44:])),
			off: int64(le.Uint64(row[48:])), stored: int64(le.Uint32(row[40:])), packed: flags&chunkCompressed != 0,
			batch: -1, digest: (*[32]byte)(row),
		}
		switch {
		case blob >= len(b.blobs):
			return nil, corrupt("chunk of blob %d of %d", blob, len(b.blobs))
		case flags&chunkEncrypted != 0:
			return nil, refused("chunk %d of blob %d is encrypted", c.index, blob)
		case flags&chunkBatch != 0:
			c.batch = 0 // which one, only the blob knows
		}
		parted[blob] = append(parted[blob], c)
	}
	return parted, nil
}

// batch is what several chunks are compressed into: by themselves, or with what
// lies between them in an original layer.
type batch struct {
	off          int64 // in the blob; -1: that of its chunks
	stored, size int64
}

// unit is what can be decoded by itself: a chunk, or a batch of them.
type unit struct {
	chunks []chunk
	packed bool
	batch  int32 // -1: a chunk
	size   int64 // decoded
}

// units makes spans of the chunks of a blob.
func units(blob *blobInfo, list blobList) ([]span.Span, []unit, error) {
	chunks, batches := list.chunks, list.batches
	slices.SortFunc(chunks, func(a, b chunk) int { return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.index, b.index)) })
	chunks = slices.CompactFunc(chunks, func(a, b chunk) bool { return a.at == b.at && a.size == b.size && a.off == b.off })
	var spans []span.Span
	var made []unit
	for i := 0; i < len(chunks); {
		c := &chunks[i]
		if err := c.check(blob, batches); err != nil {
			return nil, nil, err
		}
		if c.batch < 0 {
			spans = append(spans, span.Span{At: c.at, Size: c.size, Off: c.off, Stored: c.stored})
			made = append(made, unit{chunks[i : i+1], c.packed, -1, c.size})
			i++
			continue
		}
		n := i + 1
		for n < len(chunks) && chunks[n].batch == c.batch {
			if err := chunks[n].check(blob, batches); err != nil {
				return nil, nil, err
			}
			n++
		}
		together, last := batches[c.batch], &chunks[n-1]
		off := together.off
		if off < 0 {
			off = c.off
		}
		spans = append(spans, span.Span{At: c.at, Size: last.at + last.size - c.at, Off: off, Stored: together.stored})
		made = append(made, unit{chunks[i:n], together.stored != together.size, c.batch, together.size})
		i = n
	}
	return spans, made, nil
}

func (c *chunk) check(blob *blobInfo, batches []batch) error {
	switch {
	case c.size <= 0 || c.size > maxChunkSize || c.at < 0 || c.at%blockSize != 0 || c.at > blob.size-c.size:
		return corrupt("chunk %d of %d bytes at %d of a device of %d", c.index, c.size, c.at, blob.size)
	case c.batch >= 0:
		if int(c.batch) >= len(batches) {
			return corrupt("chunk %d is in batch %d of %d", c.index, c.batch, len(batches))
		}
		if b := batches[c.batch]; b.off < 0 && b.size > maxChunkSize || c.within < 0 || c.within > b.size-c.size {
			return corrupt("chunk %d of %d bytes at %d of a batch of %d", c.index, c.size, c.within, b.size)
		}
	case !c.packed && c.stored != c.size:
		return corrupt("chunk %d of %d bytes is stored as it is in %d", c.index, c.size, c.stored)
	}
	return nil
}

// decodeUnit fills dst with the chunks of u, each verified, and zeros between them.
// cuts are of an original layer, nil where the blob is none.
func (d *decoder) decodeUnit(blob *blobInfo, cuts *gzindex.Cuts, u *unit, dst, src []byte) (err error) {
	how := compressionNone
	if u.packed {
		how = blob.compression
	}
	if u.batch < 0 {
		if err := d.decode(how, dst, src); err != nil {
			return err
		}
		return u.chunks[0].verify(blob.digests, dst)
	}
	together := make([]byte, u.size)
	if cuts != nil {
		err = cuts.Decode(int(u.batch), together, src)
	} else {
		err = d.decode(how, together, src)
	}
	if err != nil {
		return err
	}
	clear(dst)
	for i := range u.chunks {
		c := &u.chunks[i]
		here := dst[c.at-u.chunks[0].at:][:c.size]
		copy(here, together[c.within:])
		if err := c.verify(blob.digests, here); err != nil {
			return err
		}
	}
	return nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func (c *chunk) verify(digests digestAlgorithm, content []byte) error {
	switch {
	case c.digest != nil:
		if got := digests.of(content); got != *c.digest {
			return fmt.Errorf("chunk %d has the digest %x, want %x", c.index, got, *c.digest)
		}
	case c.crc != nil:
		if got := crc32.Checksum(content, castagnoli); got != *c.crc {
			return fmt.Errorf("chunk %d has the CRC %#08x, want %#08x", c.index, got, *c.crc)
		}
	}
	return nil
}

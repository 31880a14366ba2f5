package nydus

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/referee-cri/referee/lazyblock"
)

// What a blob says of its chunks ("blob.meta"): rows and behind them the batches,
// compressed together; right behind that, as it is, a header.
const (
	metaHeaderSize = 4096
	metaMagic      = 0xb10bb10b
	rowV1          = 16
	rowV2          = 24
	batchRow       = 40

	chunkBatchV2     = 4 // flags of rows of version 2
	chunkEncryptedV2 = 8
)

// readChunks returns the chunks of a blob as it lists them itself, and its batches.
func (d *decoder) readChunks(ctx context.Context, r lazyblock.RangeReader, blob *blobInfo) ([]chunk, []batch, error) {
	members, err := readTOC(ctx, r, blob)
	if err != nil {
		return nil, nil, err
	}
	chunks, batches, err := d.readMeta(ctx, r, blob, members)
	if err != nil {
		return nil, nil, fmt.Errorf("list of chunks: %w", err)
	}
	m, ok := members[memberDigest]
	if !ok || blob.features&featureDigests == 0 {
		return chunks, batches, nil
	}
	digests, err := d.read(ctx, r, m)
	if err != nil {
		return nil, nil, fmt.Errorf("digests of chunks: %w", err)
	}
	if len(digests) != 32*len(chunks) {
		return nil, nil, corrupt("%d bytes of digests for %d chunks", len(digests), len(chunks))
	}
	for i := range chunks {
		chunks[i].digest = (*[32]byte)(digests[32*i:])
	}
	return chunks, batches, nil
}

func (d *decoder) readMeta(ctx context.Context, r lazyblock.RangeReader, blob *blobInfo, members map[string]member) ([]chunk, []batch, error) {
	header := make([]byte, metaHeaderSize)
	if blob.metaStored < 0 || blob.metaOffset < 0 || blob.metaOffset > r.Size()-blob.metaStored {
		return nil, nil, corrupt("%d bytes at %d of a blob of %d", blob.metaStored, blob.metaOffset, r.Size())
	}
	if err := lazyblock.ReadFull(ctx, r, header, blob.metaOffset+blob.metaStored); err != nil {
		return nil, nil, err
	}
	batches, err := blob.checkHeader(header)
	if err != nil {
		return nil, nil, err
	}
	m := member{how: blob.metaCompression, off: blob.metaOffset, stored: blob.metaStored, size: blob.metaSize}
	rows, err := d.expand(ctx, r, m)
	if err != nil {
		return nil, nil, err
	}
	// The table of members vouches for the rows; how they are compressed it cannot
	// always say (it has no number for gzip).
	if listed, ok := members[memberMeta]; ok {
		if err := listed.verify(rows); err != nil {
			return nil, nil, err
		}
	}
	return parseMeta(rows, blob, batches)
}

// batchTable is where the rows hold the batches.
type batchTable struct{ off, size, count uint64 }

// checkHeader compares the header with what the bootstrap says.
func (b *blobInfo) checkHeader(header []byte) (batchTable, error) {
	le := binary.LittleEndian
	first, second := le.Uint32(header), le.Uint32(header[metaHeaderSize-4:])
	if first != metaMagic || second != metaMagic {
		return batchTable{}, corrupt("header begins %#08x and ends %#08x, want %#08x", first, second, uint32(metaMagic))
	}
	if n := int64(le.Uint32(header[12:])); n != int64(b.chunks) {
		return batchTable{}, corrupt("header says %d chunks, the bootstrap %d", n, b.chunks)
	}
	if size := int64(le.Uint64(header[32:])); size != b.metaSize {
		return batchTable{}, corrupt("header says %d bytes, the bootstrap %d", size, b.metaSize)
	}
	return batchTable{le.Uint64(header[40:]), le.Uint64(header[48:]), uint64(le.Uint32(header[56:]))}, nil
}

func parseMeta(rows []byte, blob *blobInfo, table batchTable) ([]chunk, []batch, error) {
	size, parse := rowV1, parseV1
	if blob.features&featureV2Chunks != 0 {
		size, parse = rowV2, parseV2
	}
	if blob.chunks > len(rows)/size {
		return nil, nil, corrupt("%d chunks in %d bytes", blob.chunks, len(rows))
	}
	chunks := make([]chunk, blob.chunks)
	for i := range chunks {
		c, err := parse(rows[i*size:][:size])
		if err != nil {
			return nil, nil, err
		}
		c.index = uint32(i)
		chunks[i] = c
	}
	if blob.features&featureBatch == 0 {
		return chunks, nil, nil
	}
	total := uint64(len(rows))
	if table.count > total/batchRow || table.count*batchRow > table.size || table.off > total-table.count*batchRow {
		return nil, nil, corrupt("%d batches at %d of %d bytes", table.count, table.off, total)
	}
	var batches []batch
	for row := range slices.Chunk(rows[table.off:table.off+table.count*batchRow], batchRow) {
		batches = append(batches, batch{int64(binary.LittleEndian.Uint32(row)), int64(binary.LittleEndian.Uint32(row[4:]))})
	}
	return chunks, batches, nil
}

// parseV1 reads a row of two numbers, both a length and an offset.
func parseV1(row []byte) (chunk, error) {
	plain, stored := binary.LittleEndian.Uint64(row), binary.LittleEndian.Uint64(row[8:])
	c := chunk{
		at: int64(plain & 0xffffffff000), size: int64(plain&0xf00<<12|plain>>44) + 1,
		off: int64(stored & 0xffffffffff), stored: int64(stored&0xf0000000000>>20|stored>>44) + 1, batch: -1,
	}
	c.packed = c.size != c.stored
	return c, nil
}

// parseV2 reads a row with flags and something that they explain.
func parseV2(row []byte) (chunk, error) {
	le := binary.LittleEndian
	plain, stored, data := le.Uint64(row), le.Uint64(row[8:]), le.Uint64(row[16:])
	flags := plain >> 56
	c := chunk{
		at: int64(plain&0xffffffff) << 12, size: int64(plain>>32&0xffffff) + 1,
		off: int64(stored & 0xffffffffff), stored: int64(stored >> 40 & 0xffffff), packed: flags&chunkCompressed != 0, batch: -1,
	}
	switch {
	case flags&chunkZran != 0:
		return c, refused("a chunk is in an original layer (zran)")
	case flags&chunkEncryptedV2 != 0:
		return c, refused("a chunk is encrypted")
	case flags&chunkBatchV2 != 0:
		if c.batch, c.within = int32(data>>32), int64(data&0xffffffff); c.batch < 0 {
			return c, corrupt("a chunk is in batch %d", c.batch)
		}
	case flags&chunkCRC != 0:
		crc := uint32(data)
		c.crc = &crc
	}
	return c, nil
}

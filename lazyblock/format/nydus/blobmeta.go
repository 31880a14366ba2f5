package nydus

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/referee-cri/referee/lazyblock"
	"github.com/referee-cri/referee/lazyblock/format/gzindex"
)

// What a blob says of its chunks ("blob.meta"): rows and behind them the batches or
// the stretches of gzip, compressed together; right behind that, as it is, a header.
const (
	metaHeaderSize = 4096
	metaMagic      = 0xb10bb10b
	rowV1          = 16
	rowV2          = 24
	unitRow        = 40 // of a batch or stretch

	chunkBatchV2     = 4 // flags of rows of version 2
	chunkEncryptedV2 = 8
)

// blobList is what a blob lists: its chunks, and what several of them are
// compressed into.
type blobList struct {
	chunks  []chunk
	batches []batch
	cuts    *gzindex.Cuts // of batches that are stretches of an original layer
}

// readChunks returns the chunks of a blob as it lists them itself.
func (d *decoder) readChunks(ctx context.Context, r lazyblock.RangeReader, blob *blobInfo) (blobList, error) {
	members, err := readTOC(ctx, r, blob)
	if err != nil {
		return blobList{}, err
	}
	list, err := d.readMeta(ctx, r, blob, members)
	if err != nil {
		return blobList{}, fmt.Errorf("list of chunks: %w", err)
	}
	m, ok := members[memberDigest]
	if !ok || blob.features&featureDigests == 0 {
		return list, nil
	}
	digests, err := d.read(ctx, r, m)
	if err != nil {
		return blobList{}, fmt.Errorf("digests of chunks: %w", err)
	}
	if len(digests) != 32*len(list.chunks) {
		return blobList{}, corrupt("%d bytes of digests for %d chunks", len(digests), len(list.chunks))
	}
	for i := range list.chunks {
		list.chunks[i].digest = (*[32]byte)(digests[32*i:])
	}
	return list, nil
}

func (d *decoder) readMeta(ctx context.Context, r lazyblock.RangeReader, blob *blobInfo, members map[string]member) (list blobList, err error) {
	header := make([]byte, metaHeaderSize)
	if blob.metaStored < 0 || blob.metaOffset < 0 || blob.metaOffset > r.Size()-blob.metaStored {
		return list, corrupt("%d bytes at %d of a blob of %d", blob.metaStored, blob.metaOffset, r.Size())
	}
	if err := lazyblock.ReadFull(ctx, r, header, blob.metaOffset+blob.metaStored); err != nil {
		return list, err
	}
	table, err := blob.checkHeader(header)
	if err != nil {
		return list, err
	}
	m := member{how: blob.metaCompression, off: blob.metaOffset, stored: blob.metaStored, size: blob.metaSize}
	rows, err := d.expand(ctx, r, m)
	if err != nil {
		return list, err
	}
	// The table of members vouches for the rows; how they are compressed it cannot
	// always say (it has no number for gzip).
	if listed, ok := members[memberMeta]; ok {
		if err := listed.verify(rows); err != nil {
			return list, err
		}
	}
	return parseMeta(rows, blob, table)
}

// unitTable is where the rows hold batches or stretches.
type unitTable struct{ off, size, count uint64 }

// checkHeader compares the header with what the bootstrap says.
func (b *blobInfo) checkHeader(header []byte) (unitTable, error) {
	le := binary.LittleEndian
	first, second := le.Uint32(header), le.Uint32(header[metaHeaderSize-4:])
	if first != metaMagic || second != metaMagic {
		return unitTable{}, corrupt("header begins %#08x and ends %#08x, want %#08x", first, second, uint32(metaMagic))
	}
	if n := int64(le.Uint32(header[12:])); n != int64(b.chunks) {
		return unitTable{}, corrupt("header says %d chunks, the bootstrap %d", n, b.chunks)
	}
	if size := int64(le.Uint64(header[32:])); size != b.metaSize {
		return unitTable{}, corrupt("header says %d bytes, the bootstrap %d", size, b.metaSize)
	}
	return unitTable{le.Uint64(header[40:]), le.Uint64(header[48:]), uint64(le.Uint32(header[56:]))}, nil
}

func parseMeta(rows []byte, blob *blobInfo, table unitTable) (list blobList, err error) {
	size, parse := rowV1, parseV1
	if blob.features&featureV2Chunks != 0 {
		size, parse = rowV2, parseV2
	}
	if blob.chunks > len(rows)/size {
		return list, corrupt("%d chunks in %d bytes", blob.chunks, len(rows))
	}
	list.chunks = make([]chunk, blob.chunks)
	for i := range list.chunks {
		c, err := parse(rows[i*size:][:size])
		if err != nil {
			return blobList{}, err
		}
		c.index = uint32(i)
		list.chunks[i] = c
	}
	if blob.features&(featureBatch|featureZran) == 0 {
		return list, nil
	}
	total := uint64(len(rows))
	if table.count > total/unitRow || table.count*unitRow > table.size || table.size > total || table.off > total-table.size {
		return blobList{}, corrupt("%d batches in %d bytes at %d of %d", table.count, table.size, table.off, total)
	}
	part := rows[table.off : table.off+table.size]
	if blob.features&featureZran != 0 {
		err = list.parseStretches(part[:table.count*unitRow], part[table.count*unitRow:])
		return list, err
	}
	for row := range slices.Chunk(part[:table.count*unitRow], unitRow) {
		list.batches = append(list.batches, batch{off: -1, stored: int64(binary.LittleEndian.Uint32(row)), size: int64(binary.LittleEndian.Uint32(row[4:]))})
	}
	return list, nil
}

// parseStretches reads where gzip can be inflated from, and the output before that.
func (l *blobList) parseStretches(rows, windows []byte) error {
	l.cuts = &gzindex.Cuts{}
	le := binary.LittleEndian
	left := uint64(len(windows)) // each is kept once: no more work than there are bytes
	for row := range slices.Chunk(rows, unitRow) {
		off, bits := int64(le.Uint64(row)), row[37]
		at, n := le.Uint64(row[16:]), uint64(le.Uint32(row[32:]))
		b := batch{off: off, stored: int64(le.Uint32(row[24:])), size: int64(le.Uint32(row[28:]))}
		if bits != 0 { // of the byte before, which is in the row too
			b.off--
			b.stored++
		}
		switch {
		case b.off < 0 || b.size > gzindex.MaxSpan || b.stored > gzindex.MaxSpan:
			return corrupt("stretch of %d bytes at %d that inflates to %d, more than %d", b.stored, off, b.size, gzindex.MaxSpan)
		case n > gzindex.WindowSize || n > left || at > uint64(len(windows))-n:
			return corrupt("%d bytes before a stretch at %d of %d", n, at, len(windows))
		}
		left -= n
		if err := l.cuts.Add(bits, windows[at:at+n]); err != nil {
			return corrupt("stretch at %d: %w", off, err)
		}
		l.batches = append(l.batches, b)
	}
	l.cuts.Done()
	return nil
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
	case flags&chunkEncryptedV2 != 0:
		return c, refused("a chunk is encrypted")
	case flags&(chunkBatchV2|chunkZran) != 0:
		if c.batch, c.within = int32(data>>32), int64(data&0xffffffff); c.batch < 0 {
			return c, corrupt("a chunk is in batch %d", c.batch)
		}
	case flags&chunkCRC != 0:
		crc := uint32(data)
		c.crc = &crc
	}
	return c, nil
}

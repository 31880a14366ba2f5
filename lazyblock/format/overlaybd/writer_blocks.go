package overlaybd

import (
	"encoding/binary"
	"fmt"
	"os"

	"golang.org/x/sync/errgroup"
)

const (
	// writeBatch is how many uncompressed bytes are gathered before the
	// cores share them out.
	writeBatch = 2 << 20

	// Stock's reader refuses a file in which the stored lengths of all but
	// the last block of a group, which has 64 KiB uncompressed, reach this
	// sum (spec 3.4).
	stockGroup     = 64 << 10
	stockGroupLess = 65535
)

// blockWriter writes a ZFile as a stream: it compresses batches of blocks on
// all cores and stores them in order.
type blockWriter struct {
	f         *os.File
	start     int64 // of the ZFile in f
	off       int64 // in f, where the next block goes
	algorithm Algorithm
	blockSize int
	encoders  []encoder

	batch   []byte
	outputs []compressed
	index   []uint16 // stored lengths
	written int64    // uncompressed bytes
	grouped int      // stored bytes of the current group
}

// compressed is what one core made of its share of a batch.
type compressed struct {
	data    []byte
	lengths []uint16
}

func newBlockWriter(f *os.File, start int64, a Algorithm, blockSize int) (*blockWriter, error) {
	encoders, err := newEncoders(a, cores())
	if err != nil {
		return nil, err
	}
	return &blockWriter{
		f: f, start: start, off: start + zfileHeaderSize, algorithm: a, blockSize: blockSize,
		encoders: encoders, batch: make([]byte, 0, writeBatch), outputs: make([]compressed, len(encoders)),
	}, nil
}

// write appends p to the file within.
func (w *blockWriter) write(p []byte) error {
	for len(p) > 0 {
		n := min(len(p), writeBatch-len(w.batch))
		w.batch, p = append(w.batch, p[:n]...), p[n:]
		if len(w.batch) == writeBatch {
			if err := w.flush(); err != nil {
				return err
			}
		}
	}
	return nil
}

// flush compresses and stores the batch. The number of cores decides only who
// compresses a block, never what becomes of it.
func (w *blockWriter) flush() error {
	blocks := (len(w.batch) + w.blockSize - 1) / w.blockSize
	share := (blocks + len(w.encoders) - 1) / len(w.encoders) * w.blockSize
	var g errgroup.Group // waited for below
	for i, rest := 0, w.batch; i < len(w.encoders); i++ {
		mine := rest[:min(share, len(rest))]
		rest = rest[len(mine):]
		g.Go(func() error { return w.outputs[i].compress(w.encoders[i], mine, w.blockSize) })
	}
	if err := g.Wait(); err != nil {
		return fmt.Errorf("compress blocks: %w", err)
	}
	for i := range w.outputs {
		if err := w.store(&w.outputs[i]); err != nil {
			return err
		}
	}
	w.written += int64(len(w.batch))
	w.batch = w.batch[:0]
	return nil
}

// compress replaces c by the stored form of blocks.
func (c *compressed) compress(e encoder, blocks []byte, blockSize int) error {
	c.data, c.lengths = c.data[:0], c.lengths[:0]
	for len(blocks) > 0 {
		block := blocks[:min(blockSize, len(blocks))]
		blocks = blocks[len(block):]
		begin := len(c.data)
		var err error
		if c.data, err = e.encode(c.data, block); err != nil {
			return err
		}
		c.data = binary.LittleEndian.AppendUint32(c.data, rawCRC(blockSeed, c.data[begin:]))
		// At most 32768 + 32768/255 + 16 + 4.
		c.lengths = append(c.lengths, uint16(len(c.data)-begin))
	}
	return nil
}

func (w *blockWriter) store(c *compressed) error {
	group := stockGroup / w.blockSize
	for _, n := range c.lengths {
		switch place := len(w.index) % group; {
		case place == 0:
			w.grouped = 0
			fallthrough
		case place < group-1:
			if w.grouped += int(n); group > 1 && w.grouped >= stockGroupLess {
				return fmt.Errorf("block %d is stored in %d bytes, too many for other readers", len(w.index), n)
			}
		}
		w.index = append(w.index, n)
	}
	if _, err := w.f.WriteAt(c.data, w.off); err != nil {
		return err
	}
	w.off += int64(len(c.data))
	return nil
}

// finish writes what is left, the index, the trailer and then the header, and
// returns the length of the ZFile.
func (w *blockWriter) finish() (int64, error) {
	if err := w.flush(); err != nil {
		return 0, err
	}
	hdr := zfileHeader{
		flags: zfileTrailer, indexOffset: uint64(w.off - w.start), indexEntries: uint64(len(w.index)),
		originalSize: uint64(w.written), blockSize: uint32(w.blockSize), algorithm: w.algorithm, verify: true,
	}
	var err error
	if hdr.indexCRC, err = w.writeIndex(); err != nil {
		return 0, err
	}
	if _, err := w.f.WriteAt(hdr.encode(), w.off); err != nil {
		return 0, err
	}
	hdr.flags = zfileHeaderDone
	if _, err := w.f.WriteAt(hdr.encode(), w.start); err != nil {
		return 0, err
	}
	return w.off + zfileHeaderSize - w.start, nil
}

func (w *blockWriter) writeIndex() (crc uint32, err error) {
	page := w.batch[:0]
	for i, n := range w.index {
		page = binary.LittleEndian.AppendUint32(page, uint32(n))
		if len(page) < writeBatch && i < len(w.index)-1 {
			continue
		}
		crc = rawCRC(crc, page)
		if _, err := w.f.WriteAt(page, w.off); err != nil {
			return 0, err
		}
		w.off += int64(len(page))
		page = page[:0]
	}
	return crc, nil
}

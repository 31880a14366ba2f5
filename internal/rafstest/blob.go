package rafstest

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"lukechampine.com/blake3"
)

// How chunks are compressed.
const (
	None = iota
	LZ4
	Gzip
	Zstd
)

// Features of blobs, as their rows have them.
const (
	Aligned = 0x1
	V2      = 0x4
	Digests = 0x20
	Zran    = 0x8 | 0x10 // and the list of chunks is elsewhere
	Batched = 0x80
	TarTOC  = 0x10000000 | 0x20000000 | 0x40000000
)

const (
	blockSize   = 4096
	headerSize  = 4096
	headerMagic = 0xb10bb10b
)

// chunk is a chunk as both tables describe it.
type chunk struct {
	at, size    int
	off, stored int
	packed      bool
	digest      [32]byte
	batch       int // or stretch; -1: none
	within      int
	zran        bool
}

// blob is a data blob under construction.
type blob struct {
	opts    Options
	data    bytes.Buffer // stored
	address int          // uncompressed, the next one
	chunks  []chunk

	original *original // holds the data, nil: the blob does

	pending  []byte   // of the batch under construction
	waiting  []int    // its chunks
	contexts [][2]int // of batches: stored, size

	// What the bootstrap says of it, once finished.
	id                            string
	metaOff, metaStored, metaSize int
	metaHow                       int
	toc                           []byte
	tocDigest                     [32]byte
	stored                        int // bytes of chunks
	listDigest                    [32]byte
}

// add appends a file's content and returns the block at which it begins.
func (b *blob) add(t testing.TB, content []byte) uint64 {
	t.Helper()
	block := uint64(b.address / blockSize)
	single := len(content) < b.opts.ChunkSize
	for len(content) > 0 {
		part := content[:min(len(content), b.opts.ChunkSize)]
		content = content[len(part):]
		c := chunk{at: b.address, size: len(part), digest: b.opts.digest(part), batch: -1}
		b.address += (len(part) + blockSize - 1) / blockSize * blockSize
		if single && len(part) < b.opts.Batch/2 {
			b.batch(t, c, part)
			continue
		}
		b.flush(t)
		c.off, c.stored, c.packed = b.store(t, part)
		b.chunks = append(b.chunks, c)
	}
	return block
}

func (b *blob) batch(t testing.TB, c chunk, part []byte) {
	t.Helper()
	if len(b.pending)+len(part) > b.opts.Batch {
		b.flush(t)
	}
	c.batch, c.within, c.packed = len(b.contexts), len(b.pending), true
	b.pending = append(b.pending, part...)
	b.waiting = append(b.waiting, len(b.chunks))
	b.chunks = append(b.chunks, c)
}

// flush ends a batch.
func (b *blob) flush(t testing.TB) {
	t.Helper()
	if len(b.pending) == 0 {
		return
	}
	off, stored, _ := b.store(t, b.pending)
	for _, i := range b.waiting {
		b.chunks[i].off = off
	}
	b.contexts = append(b.contexts, [2]int{stored, len(b.pending)})
	b.pending, b.waiting = nil, nil
}

// store appends content, compressed if that makes it smaller.
func (b *blob) store(t testing.TB, content []byte) (off, stored int, packed bool) {
	t.Helper()
	off = b.data.Len()
	out := compress(t, b.opts.Compression, content)
	if packed = out != nil && len(out) < len(content); !packed {
		out = content
	}
	b.data.Write(out)
	return off, len(out), packed
}

// compress returns nil where nothing is to be compressed.
func compress(t testing.TB, how int, content []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	switch how {
	case LZ4:
		dst := make([]byte, lz4.CompressBlockBound(len(content)))
		n, err := lz4.CompressBlock(content, dst, nil)
		if err != nil || n == 0 {
			return nil
		}
		return dst[:n]
	case Gzip:
		w := gzip.NewWriter(&out)
		if _, err := w.Write(content); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return out.Bytes()
	case Zstd:
		w, err := zstd.NewWriter(nil)
		if err != nil {
			t.Fatal(err)
		}
		return w.EncodeAll(content, nil)
	default:
		return nil
	}
}

func (o Options) digest(p []byte) [32]byte {
	if o.SHA256 {
		return sha256.Sum256(p)
	}
	return blake3.Sum256(p)
}

func (b *blob) features() uint32 {
	features := uint32(Aligned | TarTOC | Digests)
	if b.opts.V2 || b.opts.Batch > 0 || b.original != nil {
		features |= V2
	}
	if b.original != nil {
		features |= Zran
	}
	if b.opts.Batch > 0 {
		features |= Batched
	}
	return features
}

// finish appends what is behind the chunks and names the blob.
func (b *blob) finish(t testing.TB) {
	t.Helper()
	b.flush(t)
	metaHow := b.opts.Compression
	if b.stored = b.data.Len(); b.original == nil {
		b.header("image.blob", b.stored)
		b.row("image.blob", None, b.data.Bytes()[:b.stored], 0, b.stored, b.address)
	} else {
		b.stored, metaHow = len(b.original.file), Zstd
	}

	meta := b.meta()
	b.metaOff, b.metaSize = b.data.Len(), len(meta)
	out := compress(t, metaHow, meta)
	if b.metaHow = metaHow; out == nil || len(out) >= len(meta) {
		out, b.metaHow = meta, None
	}
	b.metaStored = len(out)
	header := b.metaHeader()
	b.data.Write(out)
	b.data.Write(header)
	b.header("blob.meta", len(out)+len(header))
	b.row("blob.meta", b.metaHow, meta, b.metaOff, b.metaStored, len(meta))
	b.row("blob.meta.header", None, header, b.metaOff+b.metaStored, len(header), len(header))

	var digests []byte
	for _, c := range b.chunks {
		digests = append(digests, c.digest[:]...)
	}
	b.row("blob.digest", None, digests, b.data.Len(), len(digests), len(digests))
	b.data.Write(digests)
	b.header("blob.digest", len(digests))

	start := b.data.Len()
	b.data.Write(b.toc)
	b.header("rafs.blob.toc", len(b.toc))
	b.toc = bytes.Clone(b.data.Bytes()[start:])
	b.tocDigest = sha256.Sum256(b.toc)
	if b.original != nil {
		b.finishOriginal()
		return
	}
	sum := sha256.Sum256(b.data.Bytes())
	b.id = hex.EncodeToString(sum[:])
}

// meta spells the chunks as the blob lists them.
func (b *blob) meta() []byte {
	var out []byte
	le := binary.LittleEndian
	for _, c := range b.chunks {
		if b.features()&V2 == 0 {
			u, s := uint64(c.size-1), uint64(c.stored-1)
			out = le.AppendUint64(out, uint64(c.at)|(u>>20&0xf)<<8|u<<44)
			out = le.AppendUint64(out, uint64(c.off)|(s>>20&0xf)<<40|s<<44)
			continue
		}
		flags, data := uint64(0), uint64(0)
		if c.packed {
			flags |= 1
		}
		if c.batch >= 0 {
			flags |= 4
			if c.zran {
				flags ^= 4 | 2
			}
			data = uint64(c.batch)<<32 | uint64(c.within)
		}
		out = le.AppendUint64(out, uint64(c.at>>12)|uint64(c.size-1)<<32|flags<<56)
		out = le.AppendUint64(out, uint64(c.off)|uint64(c.stored)<<40)
		out = le.AppendUint64(out, data)
	}
	if b.original != nil {
		return append(out, b.original.table()...)
	}
	for _, context := range b.contexts {
		row := make([]byte, 40)
		le.PutUint32(row, uint32(context[0]))
		le.PutUint32(row[4:], uint32(context[1]))
		out = append(out, row...)
	}
	return out
}

// units are the bytes that batches or stretches take in the list, and how many.
func (b *blob) units() (size, count int) {
	if b.original != nil {
		return len(b.original.table()), len(b.original.stretches)
	}
	return 40 * len(b.contexts), len(b.contexts)
}

func (b *blob) metaHeader() []byte {
	h := make([]byte, headerSize)
	le := binary.LittleEndian
	le.PutUint32(h, headerMagic)
	le.PutUint32(h[4:], b.features())
	le.PutUint32(h[8:], uint32(b.metaHow))
	le.PutUint32(h[12:], uint32(len(b.chunks)))
	le.PutUint64(h[16:], uint64(b.metaOff))
	le.PutUint64(h[24:], uint64(b.metaStored))
	le.PutUint64(h[32:], uint64(b.metaSize))
	size, count := b.units()
	le.PutUint64(h[40:], uint64(b.metaSize-size))
	le.PutUint64(h[48:], uint64(size))
	le.PutUint32(h[56:], uint32(count))
	le.PutUint32(h[headerSize-4:], headerMagic)
	return h
}

// header appends the tar header that stands behind a member.
func (b *blob) header(name string, size int) {
	h := make([]byte, 512)
	copy(h, name)
	copy(h[100:], "0000444\x00")
	copy(h[108:], "0000000\x000000000\x00")
	copy(h[124:], fmt.Sprintf("%011o\x00", size))
	copy(h[136:], "00000000000\x00        0")
	copy(h[257:], "ustar  \x00")
	sum := 0
	for _, c := range h {
		sum += int(c)
	}
	copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
	b.data.Write(h)
}

// row adds a member to the table of contents.
func (b *blob) row(name string, how int, content []byte, off, stored, size int) {
	r := make([]byte, 128)
	le := binary.LittleEndian
	flags := map[int]uint32{None: 1, Zstd: 2, LZ4: 4, Gzip: 1}
	le.PutUint32(r, flags[how])
	copy(r[8:24], name)
	sum := sha256.Sum256(content)
	copy(r[24:], sum[:])
	le.PutUint64(r[56:], uint64(off))
	le.PutUint64(r[64:], uint64(stored))
	le.PutUint64(r[72:], uint64(size))
	b.toc = append(b.toc, r...)
}

package rafstest

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"io"
	"testing"

	"github.com/referee-cri/referee/lazyblock/format/gzindex"
)

// stretch is a part of an original layer that can be inflated by itself.
type stretch struct {
	begin  place
	end    int // of its content
	window []byte
}

// Bounds of a stretch, smaller than the builder's so that small layers have many.
const (
	stretchStored = 64 << 10
	stretchSize   = 128 << 10
)

// original is a layer as it stands in the image, whose content a blob only points at.
type original struct {
	file      []byte
	content   []byte
	places    []place
	stretches []stretch
}

// makeOriginal compresses a layer.
func makeOriginal(tar []byte) *original {
	file, places := gzipBlocks(tar)
	return &original{file: file, content: tar, places: places}
}

// readOriginal takes a layer that somebody else compressed.
func readOriginal(t testing.TB, file []byte) *original {
	t.Helper()
	o := &original{file: file}
	r := gzindex.NewReader(bytes.NewReader(file), func(at gzindex.Checkpoint, _ []byte) error {
		o.places = append(o.places, place{in: int(at.In), out: int(at.Out), bits: int(at.Bits)})
		return nil
	})
	var err error
	if o.content, err = io.ReadAll(r); err != nil {
		t.Fatal(err)
	}
	return o
}

// cover returns the stretch that holds the content from at to end, and where it
// begins in that. Content is asked for in ascending order.
func (o *original) cover(at, end int) (context, within int) {
	begin := o.before(at)
	if n := len(o.stretches); n > 0 {
		last := &o.stretches[n-1]
		enough := begin.in-last.begin.in > stretchStored || end-last.begin.out > stretchSize
		if begin == last.begin || !enough {
			last.end = max(last.end, end)
			return n - 1, at - last.begin.out
		}
	}
	window := o.content[max(0, begin.out-farthest):begin.out]
	o.stretches = append(o.stretches, stretch{begin: begin, end: end, window: window})
	return len(o.stretches) - 1, at - begin.out
}

// before is the last place that is not behind a byte of the content.
func (o *original) before(at int) place {
	found := o.places[0]
	for _, p := range o.places {
		if p.out > at {
			break
		}
		found = p
	}
	return found
}

// stored is where in the file the content before end has been read.
func (o *original) stored(end int) int {
	for _, p := range o.places {
		if p.out >= end {
			return p.in
		}
	}
	return len(o.file)
}

// addOriginal adds a file whose content stands at an offset of the layer's.
func (b *blob) addOriginal(content []byte, at int) (block uint64) {
	block = uint64(b.address / blockSize)
	for len(content) > 0 {
		part := content[:min(len(content), b.opts.ChunkSize)]
		content = content[len(part):]
		c := chunk{at: b.address, size: len(part), digest: b.opts.digest(part), packed: true, zran: true}
		c.batch, c.within = b.original.cover(at, at+len(part))
		c.off = b.original.before(at).in
		c.stored = b.original.stored(at+len(part)) - c.off
		b.address += (len(part) + blockSize - 1) / blockSize * blockSize
		b.chunks = append(b.chunks, c)
		at += len(part)
	}
	return block
}

// table spells the stretches, and behind them the content before each.
func (o *original) table() []byte {
	var rows, windows []byte
	le := binary.LittleEndian
	for _, s := range o.stretches {
		row := make([]byte, 40)
		le.PutUint64(row, uint64(s.begin.in))
		le.PutUint64(row[8:], uint64(s.begin.out))
		le.PutUint64(row[16:], uint64(len(windows)))
		le.PutUint32(row[24:], uint32(o.stored(s.end)-s.begin.in))
		le.PutUint32(row[28:], uint32(s.end-s.begin.out))
		le.PutUint32(row[32:], uint32(len(s.window)))
		if row[37] = byte(s.begin.bits); s.begin.bits > 0 {
			row[36] = o.file[s.begin.in-1]
		}
		rows, windows = append(rows, row...), append(windows, s.window...)
	}
	return append(rows, windows...)
}

// finishOriginal names what lists the chunks of an original layer.
func (b *blob) finishOriginal() {
	sum := sha256.Sum256(b.data.Bytes())
	b.listDigest = sum
	sum = sha256.Sum256(b.original.file)
	b.id = hex.EncodeToString(sum[:])
}

// List is the list of chunks of a small blob, for tests that bend it.
type List struct {
	Rows             []byte
	Features         uint32
	Chunks           int
	Off, Size, Count int // where in Rows batches or stretches are, in how many bytes, and how many
}

// WriteList lists what a blob written with opts holds.
func WriteList(t testing.TB, opts Options) List {
	t.Helper()
	if opts.ChunkSize == 0 {
		opts.ChunkSize = 64 << 10
	}
	content := bytes.Repeat([]byte("some content, "), 3000)
	b := &blob{opts: opts}
	if opts.Zran {
		b.original = makeOriginal(content)
		b.addOriginal(content[512:9000], 512)
		b.addOriginal(content[10_000:], 10_000)
	} else {
		b.add(t, content[:3000])
		b.add(t, content)
		b.flush(t)
	}
	l := List{Rows: b.meta(), Features: b.features(), Chunks: len(b.chunks)}
	l.Size, l.Count = b.units()
	l.Off = len(l.Rows) - l.Size
	return l
}

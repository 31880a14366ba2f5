package soci

import (
	"encoding/binary"
	"fmt"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/lazyblock"
	"github.com/referee-cri/referee/lazyblock/format/gzindex"
	"github.com/referee-cri/referee/lazyblock/format/span"
)

// The zinfo of a gzip layer: a count and the span size, then a record for each
// checkpoint. In the first version the first record is left out.
const (
	zinfoHead   = 12
	zinfoRecord = 8 + 8 + 1 + gzindex.WindowSize
	// impliedIn is where the first checkpoint is where it is left out: behind a gzip
	// header without a name.
	impliedIn = 10
)

// Fields of the zinfo of an uncompressed layer, which is a FlatBuffers table.
const (
	tarVersion  = 0
	tarSpanSize = 1
	tarSize     = 2

	tarVersion2 = 2
)

// content opens the layer blob, and returns where its spans lie.
func (z *ztoc) content(blob lazyblock.RangeReader, memory *span.Memory) (*span.Reader, []span.Span, error) {
	if blob.Size() != z.compressed {
		return nil, nil, reason.Errorf(reason.FormatCorrupt, "the table is of a layer of %d bytes, this one is %d", z.compressed, blob.Size())
	}
	switch z.algorithm {
	case algorithmGzip:
		x, err := z.gzipIndex()
		if err != nil {
			return nil, nil, reason.Errorf(reason.FormatCorrupt, "checkpoints: %w", err)
		}
		r, err := x.Content(blob, gzindex.ContentOptions{Stored: z.digests.Verify, Memory: memory})
		return r, x.Spans(), err
	case algorithmUncompressed:
		spans, err := z.tarSpans()
		if err != nil {
			return nil, nil, reason.Errorf(reason.FormatCorrupt, "spans: %w", err)
		}
		r, err := span.New(blob, spans, z.digests.Copy, span.Options{Memory: memory})
		return r, spans, err
	default:
		return nil, nil, reason.Errorf(reason.FormatCorrupt, "compression algorithm %d", z.algorithm)
	}
}

// gzipIndex decodes the checkpoints of a gzip layer.
func (z *ztoc) gzipIndex() (*gzindex.Index, error) {
	p := z.checkpoints
	if len(p) < zinfoHead {
		return nil, fmt.Errorf("%d bytes, want at least %d", len(p), zinfoHead)
	}
	have := int64(int32(binary.LittleEndian.Uint32(p)))
	p = p[zinfoHead:]
	x := &gzindex.Index{Windows: &gzindex.Windows{}, Compressed: z.compressed, Uncompressed: z.uncompressed, Open: true}
	switch {
	case have != int64(len(z.digests)):
		return nil, fmt.Errorf("%d checkpoints for %d digests", have, len(z.digests))
	case int64(len(p)) == have*zinfoRecord:
	case have > 0 && int64(len(p)) == (have-1)*zinfoRecord:
		x.Checkpoints = append(x.Checkpoints, gzindex.Checkpoint{In: impliedIn})
		if err := x.Windows.Add(nil); err != nil {
			return nil, err
		}
	default:
		return nil, fmt.Errorf("%d checkpoints in %d bytes", have, len(p))
	}
	for ; len(p) > 0; p = p[zinfoRecord:] {
		c := gzindex.Checkpoint{
			In:   int64(binary.LittleEndian.Uint64(p)),
			Out:  int64(binary.LittleEndian.Uint64(p[8:])),
			Bits: p[16],
		}
		// The tar ends before what the file inflates to, and so may the checkpoints
		// that are of use: the last of them stays whole, as its digest is of all of it.
		if n := len(x.Checkpoints); c.Out >= z.uncompressed && n > 0 && c.Out > x.Checkpoints[n-1].Out {
			if c.In > z.compressed {
				return nil, fmt.Errorf("checkpoint at %d of %d bytes", c.In, z.compressed)
			}
			x.Compressed = c.In
			break
		}
		window := p[17:zinfoRecord]
		if c.Out >= 0 && c.Out < gzindex.WindowSize { // the output began within it
			window = window[gzindex.WindowSize-c.Out:]
		}
		x.Checkpoints = append(x.Checkpoints, c)
		if err := x.Windows.Add(window); err != nil {
			return nil, err
		}
	}
	if z.uncompressed == 0 { // a layer without files: nothing is ever read
		x.Checkpoints, x.Windows = nil, &gzindex.Windows{}
	}
	x.Windows.Done()
	if err := x.Check(); err != nil {
		return nil, err
	}
	return x, nil
}

// tarSpans decodes the spans of an uncompressed layer.
func (z *ztoc) tarSpans() ([]span.Span, error) {
	f, root := newFlat(z.checkpoints)
	version, size, end := root.uint32(tarVersion), root.int64(tarSpanSize), root.int64(tarSize)
	switch {
	case f.err != nil:
		return nil, f.err
	case version != tarVersion2:
		return nil, fmt.Errorf("version %d, want %d", version, tarVersion2)
	case size <= 0 || end <= 0 || end > z.compressed || z.uncompressed > z.compressed:
		return nil, fmt.Errorf("spans of %d bytes in %d, of a tar of %d in a layer of %d", size, end, z.uncompressed, z.compressed)
	case (end-1)/size+1 != int64(len(z.digests)):
		return nil, fmt.Errorf("%d bytes in spans of %d, with %d digests", end, size, len(z.digests))
	}
	spans := make([]span.Span, len(z.digests))
	for i := range spans {
		at, n := int64(i)*size, size
		if i+1 == len(spans) { // goes on to the end, whatever is behind the tar
			n = z.compressed - at
		}
		spans[i] = span.Span{At: at, Size: n, Off: at, Stored: n}
	}
	return spans, nil
}

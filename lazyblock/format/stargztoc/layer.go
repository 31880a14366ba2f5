package stargztoc

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/lazyblock"
	"github.com/referee-cri/referee/lazyblock/format/span"
	"github.com/referee-cri/referee/lazyblock/format/toc"
)

// Expand calls use with the expanded bytes that stored begins with; there may be
// more of them than anyone wants. It is called concurrently.
type Expand func(stored []byte, use func(io.Reader) error) error

// maxGroup is up to how many bytes chunks that are stored together are expanded
// together.
const maxGroup = 4 << 20

// piece is a chunk within a span.
type piece struct {
	size   int64
	inner  int64
	digest [sha256.Size]byte
}

// contents are the chunks of a layer, by span.
type contents struct {
	pieces []piece
	first  []uint32 // of the pieces of a span; one more than there are spans
	expand Expand
}

// layer makes the table and blob a layer. The files' bytes are stored before end.
// The table must not be used afterwards.
func (t *Table) layer(blob lazyblock.RangeReader, end int64, format Format) (toc.Layer, error) {
	if err := t.findEnds(end); err != nil {
		return toc.Layer{}, err
	}
	c := &contents{expand: format.Expand, pieces: make([]piece, 0, len(t.chunks))}
	var spans []span.Span
	for i := range t.chunks {
		here := &t.chunks[i]
		if i == 0 || !joins(&spans[len(spans)-1], &t.chunks[i-1], here) {
			spans = append(spans, span.Span{At: here.at, Off: here.off, Stored: here.end - here.off})
			c.first = append(c.first, uint32(i))
		}
		spans[len(spans)-1].Size += here.size
		c.pieces = append(c.pieces, piece{here.size, here.inner, here.digest})
	}
	c.first = append(c.first, uint32(len(c.pieces)))
	content, err := span.New(blob, spans, c.decode, span.Options{Size: t.size, Memory: format.Memory})
	if err != nil {
		return toc.Layer{}, err
	}
	entries := t.entries
	t.entries, t.chunks = nil, nil
	return toc.Layer{Content: content, Entries: entries.all}, nil
}

// joins reports whether next is stored together with last, the end of s, and
// behind it.
func joins(s *span.Span, last, next *chunk) bool {
	return last.off == next.off && last.end == next.end && last.at+last.size == next.at &&
		last.inner+last.size <= next.inner && s.Size+next.size <= maxGroup
}

// findEnds fills in where chunks end that do not say so: where the next is stored.
func (t *Table) findEnds(end int64) error {
	offsets := make([]int64, 0, len(t.chunks)+3)
	for i := range t.chunks {
		offsets = append(offsets, t.chunks[i].off)
	}
	offsets = append(offsets, t.landmark, t.boundary, end)
	slices.Sort(offsets)
	offsets = slices.Compact(offsets)
	for i := range t.chunks {
		c := &t.chunks[i]
		if c.off >= end || c.end > end {
			return reason.Errorf(reason.FormatCorrupt, "chunk stored from %d to %d, behind the end of data at %d", c.off, c.end, end)
		}
		if c.end == 0 {
			j, _ := slices.BinarySearch(offsets, c.off+1)
			c.end = offsets[j]
		}
	}
	return nil
}

// decode expands and verifies the chunks of span i; see span.Decode.
func (c *contents) decode(i int, dst, src []byte) error {
	return c.expand(src, func(r io.Reader) error {
		at := int64(0)
		for _, p := range c.pieces[c.first[i]:c.first[i+1]] {
			if _, err := io.CopyN(io.Discard, r, p.inner-at); err != nil {
				return fmt.Errorf("skip %d bytes: %w", p.inner-at, unexpected(err))
			}
			here := dst[:p.size]
			dst = dst[p.size:]
			if _, err := io.ReadFull(r, here); err != nil {
				return fmt.Errorf("expand %d bytes: %w", p.size, unexpected(err))
			}
			if sum := sha256.Sum256(here); sum != p.digest {
				return fmt.Errorf("chunk has digest sha256:%x, want sha256:%x", sum, p.digest)
			}
			at = p.inner + p.size
		}
		return nil
	})
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

package erofslayers

import (
	"bytes"
	"errors"

	"github.com/referee-cri/referee/lazyblock"
	"github.com/referee-cri/referee/lazyblock/erofs/ondisk"
	"github.com/referee-cri/referee/lazyblock/format/span"
)

// packed is what is compressed within a layer, expanded: one cluster behind the
// other, in the order in which files have them.
//
// It is expanded here and not by the kernel, although the kernel could: the merged
// file system would then hold indexes of clusters, whose blocks must lie on its one
// device as they lie in the layers, and so every block of every layer, and could be
// mounted only by a kernel that has the features of all layers. Expanded they are
// read like any other piece, side by side, and kept where the kernel does not keep
// them.
type packed struct {
	spans  []span.Span
	size   int64
	reader *span.Reader // nil until all is added
}

// add gives a cluster an address.
func (p *packed) add(c *ondisk.Cluster) int64 {
	at := p.size
	p.spans = append(p.spans, span.Span{At: at, Size: c.Length, Off: c.Off, Stored: c.Stored})
	p.size += c.Length
	return at
}

// open makes what was added readable. padded is that of the image.
func (p *packed) open(image lazyblock.RangeReader, padded bool, memory *span.Memory) (err error) {
	decode := func(_ int, dst, src []byte) error { return expand(dst, src, padded) }
	p.reader, err = span.New(image, p.spans, decode, span.Options{Memory: memory})
	return err
}

// Close lets go of what was expanded.
func (p *packed) Close() error {
	if p.reader == nil {
		return nil
	}
	return p.reader.Close()
}

var errLZ4 = errors.New("broken LZ4 block")

// expand fills dst with the start of what the LZ4 block in src expands to. padded
// says that the block stands at the end of src, behind zeros; it never begins with
// one itself, as its first match needs a literal to refer to.
func expand(dst, src []byte, padded bool) error {
	if padded {
		src = bytes.TrimLeft(src, "\x00")
	}
	// LZ4's library can stop at the length wanted, which Go's cannot: what stands
	// behind a block, and where a file has only the start of one, is not told.
	for out := 0; out < len(dst); {
		if len(src) == 0 {
			return errLZ4
		}
		token := src[0]
		literals, rest, ok := lz4Length(int(token>>4), src[1:])
		if !ok || len(rest) < min(literals, len(dst)-out) {
			return errLZ4
		}
		n := copy(dst[out:], rest[:min(literals, len(rest))])
		if out += n; out == len(dst) {
			return nil
		}
		if rest = rest[literals:]; len(rest) < 2 {
			return errLZ4
		}
		offset := int(rest[0]) | int(rest[1])<<8
		match, rest, ok := lz4Length(int(token&15), rest[2:])
		if !ok || offset == 0 || offset > out {
			return errLZ4
		}
		out += repeat(dst, out, offset, match+lz4LeastMatch)
		src = rest
	}
	return nil
}

const lz4LeastMatch = 4 // is left out of a match's length

// lz4Length reads the bytes that may follow the four bits of a length in a token.
func lz4Length(n int, src []byte) (length int, rest []byte, ok bool) {
	if n < 15 {
		return n, src, true
	}
	for i, b := range src {
		if n += int(b); b < 255 {
			return n, src[i+1:], true
		}
	}
	return 0, nil, false
}

// repeat copies n bytes from offset before out to out, as far as dst goes, and
// returns how many. The two may overlap: then what was copied is copied again.
func repeat(dst []byte, out, offset, n int) int {
	n = min(n, len(dst)-out)
	for done := 0; done < n; {
		done += copy(dst[out+done:out+n], dst[out-offset:out+done])
	}
	return n
}

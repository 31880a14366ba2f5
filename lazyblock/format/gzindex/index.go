package gzindex

import (
	"fmt"
	"sync"
)

// MaxSpan bounds a span, in bytes, before and after it is inflated: what one read of
// a byte may cost. Compressors end blocks after 16 Ki to 64 Ki symbols of 258 bytes
// at most, so that spans of 4 MiB, which is usual, stay below 21 MiB.
const MaxSpan = 32 << 20

// Index divides a gzip file into spans: each begins at a checkpoint and ends at the
// next one. It does not change once it is used, and is safe for concurrent use then.
type Index struct {
	Checkpoints  []Checkpoint // ordered; the first is at output 0
	Windows      *Windows     // one a checkpoint
	Compressed   int64        // length of the file
	Uncompressed int64        // where the last span's output ends
	// Open says that the last span is inflated only as far as Uncompressed, whatever
	// follows. Otherwise its member must end there.
	Open bool

	decoders decoders
}

// Check refuses an index whose numbers contradict each other, or whose spans are
// larger than MaxSpan.
func (x *Index) Check() error {
	if x.Windows.Len() != len(x.Checkpoints) {
		return corrupt("%d windows for %d checkpoints", x.Windows.Len(), len(x.Checkpoints))
	}
	if len(x.Checkpoints) == 0 {
		if x.Uncompressed != 0 {
			return corrupt("no checkpoints for %d bytes", x.Uncompressed)
		}
		return nil
	}
	if first := x.Checkpoints[0]; first.Out != 0 || first.Start() < 0 {
		return corrupt("the first checkpoint is at output %d, input %d", first.Out, first.In)
	}
	for i, c := range x.Checkpoints {
		end, endIn := x.Uncompressed, x.Compressed
		if i+1 < len(x.Checkpoints) {
			end, endIn = x.Checkpoints[i+1].Out, x.Checkpoints[i+1].In
		}
		switch {
		case c.Bits > 7:
			return corrupt("checkpoint %d begins with %d bits of a byte", i, c.Bits)
		case c.Out >= end || c.In >= endIn || endIn > x.Compressed:
			return corrupt("span %d is the input %d to %d of %d, and the output %d to %d", i, c.In, endIn, x.Compressed, c.Out, end)
		case end-c.Out > MaxSpan || endIn-c.Start() > MaxSpan:
			return corrupt("span %d is %d bytes and inflates to %d, more than %d", i, endIn-c.Start(), end-c.Out, MaxSpan)
		}
	}
	return nil
}

// Span returns where span i lies in the output and in the file. The first byte of
// its input may be the last of the span before.
func (x *Index) Span(i int) (out, size, in, stored int64) {
	c := x.Checkpoints[i]
	end, endIn := x.Uncompressed, x.Compressed
	if i+1 < len(x.Checkpoints) {
		end, endIn = x.Checkpoints[i+1].Out, x.Checkpoints[i+1].In
	}
	return c.Out, end - c.Out, c.Start(), endIn - c.Start()
}

// decoder is an inflater with room for a window.
type decoder struct {
	inflater

	windowRoom [WindowSize]byte
}

// decoders recycles decoders, which are too large to make one for each span.
type decoders struct{ pool sync.Pool }

func (p *decoders) borrow() *decoder {
	d, ok := p.pool.Get().(*decoder)
	if !ok {
		d = new(decoder)
	}
	return d
}

// giveBack has d let go of everybody's memory.
func (p *decoders) giveBack(d *decoder) {
	d.src, d.dst, d.window = nil, nil, nil
	p.pool.Put(d)
}

// begin has f inflate src into dst, from a block that begins with the last bits of
// the byte src[0], or with src[0] where bits is 0.
func (f *inflater) begin(dst, src []byte, bits uint8, window []byte) {
	f.src, f.pos, f.hold, f.have = src, 0, 0, 0
	f.dst, f.out, f.window, f.floor = dst, 0, window, -len(window)
	f.cut, f.final, f.phase, f.stored = false, false, phaseBlock, 0
	if bits != 0 && len(src) > 0 {
		f.hold, f.have, f.pos = uint64(src[0]>>(8-bits)), uint(bits), 1
	}
}

// Decode inflates span i: src are its bytes in the file and dst has the length of
// its output. The span must end exactly where the next one begins. After an error
// dst holds nothing of use.
func (x *Index) Decode(i int, dst, src []byte) error {
	if err := x.decode(i, dst, src); err != nil {
		return fmt.Errorf("inflate span %d: %w", i, err)
	}
	return nil
}

func (x *Index) decode(i int, dst, src []byte) error {
	_, size, _, stored := x.Span(i)
	if int64(len(dst)) != size || int64(len(src)) != stored {
		return fmt.Errorf("got %d bytes for %d, of a span of %d bytes for %d", len(src), len(dst), stored, size)
	}
	d := x.decoders.borrow()
	defer x.decoders.giveBack(d)
	window, err := x.Windows.unpack(i, d.windowRoom[:])
	if err != nil {
		return err
	}
	d.begin(dst, src, x.Checkpoints[i].Bits, window)
	if i+1 == len(x.Checkpoints) {
		return d.finish(x.Open)
	}
	return d.inflateTo(8*len(src) - int(x.Checkpoints[i+1].Bits))
}

// inflateTo fills dst, and must then be at the beginning of a block at that bit.
func (f *inflater) inflateTo(bit int) error {
	for {
		s, err := f.run()
		switch {
		case err != nil:
			return err
		case s == full:
			return corrupt("more than %d bytes", len(f.dst))
		case s == needInput:
			return corrupt("it ends after %d bytes of %d", f.out, len(f.dst))
		case s != atBlock || f.used() < bit:
		case f.used() > bit || f.out < len(f.dst):
			return corrupt("%d bytes end at bit %d; the next span begins at bit %d, after %d bytes", f.out, f.used(), bit, len(f.dst))
		default:
			return nil
		}
	}
}

// finish fills dst. Unless more may follow, a member must end there.
func (f *inflater) finish(open bool) error {
	f.cut = open
	for {
		s, err := f.run()
		switch {
		case err != nil:
			return err
		case open && f.out == len(f.dst):
			return nil
		case s == full:
			return corrupt("more than %d bytes", len(f.dst))
		case s == needInput:
			return corrupt("it ends after %d bytes of %d", f.out, len(f.dst))
		case s == atMember && f.out == len(f.dst):
			return nil
		}
	}
}

package gzindex

import "fmt"

// Cuts are stretches of gzip files that can each be inflated by itself. Unlike the
// spans of an Index they may overlap and end anywhere. They do not change once they
// are used, and are safe for concurrent use then.
type Cuts struct {
	bits     []uint8
	windows  Windows
	decoders decoders
}

// Add adds a stretch that begins at a block: with the high bits of its first byte,
// or with the whole of it where bits is 0. window is the output before it, at most
// WindowSize bytes; it is not kept.
func (c *Cuts) Add(bits uint8, window []byte) error {
	if bits > 7 {
		return corrupt("a block begins with %d bits of a byte", bits)
	}
	c.bits = append(c.bits, bits)
	return c.windows.Add(window)
}

// Len is how many stretches were added.
func (c *Cuts) Len() int { return len(c.bits) }

// Done lets go of what only adding needs.
func (c *Cuts) Done() { c.windows.Done() }

// Decode fills dst with the start of what stretch i inflates to. After an error dst
// holds nothing of use.
func (c *Cuts) Decode(i int, dst, src []byte) error {
	d := c.decoders.borrow()
	defer c.decoders.giveBack(d)
	window, err := c.windows.unpack(i, d.windowRoom[:])
	if err != nil {
		return fmt.Errorf("inflate stretch %d: %w", i, err)
	}
	d.begin(dst, src, c.bits[i], window)
	if err := d.finish(true); err != nil {
		return fmt.Errorf("inflate stretch %d: %w", i, err)
	}
	return nil
}

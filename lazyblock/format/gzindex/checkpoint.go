package gzindex

// WindowSize is how far back DEFLATE's matches reach (RFC 1951, 2).
const WindowSize = 32 << 10

// Checkpoint is a place in a gzip file where a DEFLATE block begins.
type Checkpoint struct {
	Out int64 // bytes of output before it
	In  int64 // offset in the file of the first byte that belongs to the block as a whole
	// Bits is how many high bits of the byte before In belong to the block too, 0 to 7.
	Bits uint8
}

// Start is the offset of the first byte that is needed to go on from here.
func (c Checkpoint) Start() int64 {
	if c.Bits != 0 {
		return c.In - 1
	}
	return c.In
}

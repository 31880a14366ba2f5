package gzindex

// Builder makes an Index of what a Reader tells: it takes the first place where a
// block begins, and then each that lies more than a span behind the last.
type Builder struct {
	span  int64
	index Index
}

// NewBuilder returns a Builder of spans of a little more than span bytes of output.
func NewBuilder(span int64) *Builder {
	return &Builder{span: span, index: Index{Windows: &Windows{}}}
}

// Visit is for NewReader.
func (b *Builder) Visit(at Checkpoint, window []byte) error {
	_, err := b.Take(at, window)
	return err
}

// Take is Visit for who wants to know whether a span begins here.
func (b *Builder) Take(at Checkpoint, window []byte) (taken bool, err error) {
	if n := len(b.index.Checkpoints); n > 0 && at.Out-b.index.Checkpoints[n-1].Out <= b.span {
		return false, nil
	}
	b.index.Checkpoints = append(b.index.Checkpoints, at)
	return true, b.index.Windows.Add(window)
}

// Index returns the checked index of a file that was read to its end, given its
// length before and after inflating. The builder must not be used any more.
func (b *Builder) Index(compressed, uncompressed int64) (*Index, error) {
	b.index.Windows.Done()
	b.index.Compressed, b.index.Uncompressed = compressed, uncompressed
	if n := len(b.index.Checkpoints); n > 0 && b.index.Checkpoints[n-1].Out == uncompressed {
		b.index.Checkpoints = b.index.Checkpoints[:n-1] // nothing but empty blocks behind it
		b.index.Windows.truncate(n - 1)
	}
	return &b.index, b.index.Check()
}

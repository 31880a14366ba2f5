package toc

import "fmt"

// metadata is what of the disk is in memory: its head, and all from byte at to
// its end.
type metadata struct {
	head []byte
	tail []byte
	at   int64
}

// newMetadata has room for blocks start to end; the head is all before the data.
func newMetadata(start, end uint64) metadata {
	return metadata{
		head: make([]byte, 0, blockSize),
		tail: make([]byte, (end-start)<<blockBits),
		at:   int64(start << blockBits),
	}
}

// WriteAt implements io.WriterAt for erofs.Layout.Write.
func (m *metadata) WriteAt(p []byte, off int64) (int, error) {
	switch {
	case off == 0:
		m.head = append(m.head[:0], p...)
	case off >= m.at && off-m.at <= int64(len(m.tail)-len(p)):
		copy(m.tail[off-m.at:], p)
	default:
		return 0, fmt.Errorf("write %d bytes at %d: neither head nor metadata", len(p), off)
	}
	return len(p), nil
}

// size is that of the disk.
func (m *metadata) size() int64 { return m.at + int64(len(m.tail)) }

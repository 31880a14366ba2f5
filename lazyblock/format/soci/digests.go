package soci

import (
	"crypto/sha256"
	"fmt"
)

// digests are those of spans. It is all of a table that is needed to read.
type digests [][sha256.Size]byte

// verify compares the bytes of span i with its digest.
func (d digests) verify(i int, p []byte) error {
	if got := sha256.Sum256(p); got != d[i] {
		return fmt.Errorf("its %d bytes hash to sha256:%x, want sha256:%x", len(p), got, d[i])
	}
	return nil
}

// copy is the decoding of a span that is stored as it is.
func (d digests) copy(i int, dst, src []byte) error {
	if err := d.verify(i, src); err != nil {
		return err
	}
	copy(dst, src)
	return nil
}

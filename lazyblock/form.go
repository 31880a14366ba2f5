package lazyblock

import (
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Form is an accelerated form of an image, its blobs open for reading: what a
// format turns into a Volume.
type Form struct {
	ID     string     // of the volume; devices are named after it
	Layers []FormBlob // hold the content, bottom first
	Tables []FormBlob // further blobs that are needed to read Layers, in the artifact's order
}

// FormBlob is one blob of a form with what its manifest says of it. The reader
// stays its owner's, who closes it after the volume.
type FormBlob struct {
	RangeReader

	Descriptor ocispec.Descriptor
}

// Readers returns the readers of blobs, in order.
func Readers(blobs []FormBlob) []RangeReader {
	readers := make([]RangeReader, len(blobs))
	for i, blob := range blobs {
		readers[i] = blob.RangeReader
	}
	return readers
}

// Hint is a range of a form's blobs that a start is expected to read, as the
// form's publisher says. A wrong one costs bandwidth and nothing else.
type Hint struct {
	Blob        int // index into Layers, and behind them Tables
	Off, Length int64
}

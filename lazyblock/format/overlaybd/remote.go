package overlaybd

import (
	"context"
	"errors"
	"io"

	"github.com/referee-cri/referee/lazyblock"
)

// remoteLayer is the remote data of layer number as a layer that has nothing else,
// nil without remote data. It is shared by attempts to open the layer.
func remoteLayer(number int, r lazyblock.RangeReader) *layer {
	if r == nil {
		return nil
	}
	padded := paddedReader{r}
	size := padded.Size()
	return &layer{number: number, isRemote: true, blob: padded, payload: span{0, size}, size: size}
}

// compareRemote puts a layer's own data before its remote data.
func compareRemote(a, b *layer) int {
	switch {
	case a.isRemote == b.isRemote:
		return 0
	case b.isRemote:
		return -1
	default:
		return 1
	}
}

// paddedReader has zeros behind its end up to a whole sector: mappings are in
// sectors, and what they reach beyond the end reads as zeros (spec 4.6).
type paddedReader struct{ lazyblock.RangeReader }

var _ lazyblock.RangeReader = paddedReader{}

func (r paddedReader) Size() int64 { return roundUp(r.RangeReader.Size(), sector) }

func (r paddedReader) ReadRange(ctx context.Context, p []byte, off int64) (int, error) {
	n, err := r.RangeReader.ReadRange(ctx, p, off)
	if n == len(p) || !errors.Is(err, io.EOF) {
		return n, err
	}
	padded := int(max(0, min(int64(len(p)), r.Size()-off)))
	if padded <= n {
		return n, err
	}
	clear(p[n:padded])
	if padded < len(p) {
		return padded, io.EOF
	}
	return padded, nil
}

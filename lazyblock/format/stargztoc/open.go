package stargztoc

import (
	"context"
	"errors"
	"fmt"
	"io"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/referee-cri/referee/lazyblock"
	"github.com/referee-cri/referee/lazyblock/format/plainlayer"
	"github.com/referee-cri/referee/lazyblock/format/span"
	"github.com/referee-cri/referee/lazyblock/format/toc"
)

// Format is what distinguishes the formats that have such tables.
type Format struct {
	// Has tells whether a layer has a table, by its descriptor. The others must be
	// small: they are read to their end (package plainlayer).
	Has func(layer ocispec.Descriptor) bool
	// Table reads and verifies the table of a layer, and tells where the files'
	// bytes end in its blob. It is called concurrently.
	Table func(ctx context.Context, layer *lazyblock.FormBlob, budget *Budget) (table *Table, end int64, err error)
	// Expand expands what is stored of a file.
	Expand Expand
	// Memory keeps decoded chunks; nil: one for each layer.
	Memory *span.Memory
}

// parallelLayers is how many layers are opened at a time.
const parallelLayers = 8

// Open opens a form as a volume, all layers side by side.
func Open(ctx context.Context, form lazyblock.Form, format Format) (lazyblock.Volume, error) {
	layers := make([]toc.Layer, len(form.Layers))
	landmarks := make([]int64, len(form.Layers))
	var budget Budget
	if err := checkPlain(form, format); err != nil {
		return lazyblock.Volume{}, fmt.Errorf("open volume %s: %w", form.ID, err)
	}
	group, gctx := errgroup.WithContext(ctx) // waited for below
	group.SetLimit(parallelLayers)
	for i := range form.Layers {
		group.Go(func() (err error) {
			if layers[i], landmarks[i], err = openLayer(gctx, &form.Layers[i], format, &budget); err != nil {
				return fmt.Errorf("open layer %d: %w", i, err)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return lazyblock.Volume{}, errors.Join(fmt.Errorf("open volume %s: %w", form.ID, err), toc.Close(layers))
	}
	v, err := toc.Open(ctx, form.ID, layers, toc.Options{})
	if err != nil {
		return lazyblock.Volume{}, err
	}
	for i, landmark := range landmarks {
		if landmark > 0 {
			v.Hints = append(v.Hints, lazyblock.Hint{Blob: i, Length: landmark})
		}
	}
	return v, nil
}

// checkPlain refuses forms of which too much has no table.
func checkPlain(form lazyblock.Form, format Format) error {
	var plain []lazyblock.FormBlob
	for _, layer := range form.Layers {
		if !format.Has(layer.Descriptor) {
			plain = append(plain, layer)
		}
	}
	return plainlayer.Check(plain)
}

// openLayer opens one layer, and tells how much of its blob, from the start on, a
// start of the image is expected to read.
func openLayer(ctx context.Context, blob *lazyblock.FormBlob, format Format, budget *Budget) (toc.Layer, int64, error) {
	if !format.Has(blob.Descriptor) {
		layer, err := plainlayer.Open(ctx, *blob, format.Memory)
		return layer, 0, err
	}
	table, end, err := format.Table(ctx, blob, budget)
	if err != nil {
		return toc.Layer{}, 0, err
	}
	landmark := min(table.landmark, end)
	layer, err := table.layer(blob.RangeReader, end, format) // it may be an Invalidator, blob is none
	return layer, landmark, err
}

// Witness passes the bytes of a blob on and remembers its error, so that it is not
// taken for one of the decoder that the bytes go through.
type Witness struct {
	R   io.Reader
	Err error // the first, io.EOF left out
}

func (w *Witness) Read(p []byte) (int, error) {
	n, err := w.R.Read(p)
	if err != nil && !errors.Is(err, io.EOF) && w.Err == nil {
		w.Err = err
	}
	return n, err
}

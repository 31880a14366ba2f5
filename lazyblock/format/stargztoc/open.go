package stargztoc

import (
	"context"
	"errors"
	"fmt"
	"io"

	"golang.org/x/sync/errgroup"

	"github.com/referee-cri/referee/lazyblock"
	"github.com/referee-cri/referee/lazyblock/format/span"
	"github.com/referee-cri/referee/lazyblock/format/toc"
)

// Format is what distinguishes the formats that have such tables.
type Format struct {
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
	group, gctx := errgroup.WithContext(ctx) // waited for below
	group.SetLimit(parallelLayers)
	for i := range form.Layers {
		group.Go(func() error {
			blob := &form.Layers[i]
			table, end, err := format.Table(gctx, blob, &budget)
			if err == nil {
				landmarks[i] = min(table.landmark, end)
				layers[i], err = table.layer(blob.RangeReader, end, format) // which may be an Invalidator
			}
			if err != nil {
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

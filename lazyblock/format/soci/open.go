package soci

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/lazyblock"
	"github.com/referee-cri/referee/lazyblock/erofs"
	"github.com/referee-cri/referee/lazyblock/format/plainlayer"
	"github.com/referee-cri/referee/lazyblock/format/span"
	"github.com/referee-cri/referee/lazyblock/format/toc"
	"github.com/referee-cri/referee/lazyblock/format/whole"
)

// What a form's tables say of themselves.
const (
	annotationLayer   = "com.amazon.soci.image-layer-digest"
	mediaTypePrefetch = "application/vnd.amazon.soci.prefetch.v1+json"
)

// Bounds on tables, which are in memory while a volume is opened: checkpoints take
// 8 MiB for 1 GiB of layer in spans of 4 MiB, files some hundred bytes each.
const (
	maxTable   = 128 << 20
	maxTables  = 256 << 20 // of an image
	openAtOnce = 4
)

// Options of Open. The zero value is good.
type Options struct {
	Limits erofs.Limits // on what all layers may hold
	Memory *span.Memory // keeps inflated spans; nil: one for this volume
}

// Open opens an image through the tables of its SOCI index. form.Layers are the
// image's own; form.Tables name the layer that each is of in an annotation. Of two
// tables of a layer the first counts. Layers without one are read to their end now,
// as long as they are small: else the error has reason.NoMatch.
//
// Tables and such layers are compared with their digests. Bytes that break the format
// give reason.FormatCorrupt. The volume's hints are those of prefetch artifacts; a
// broken one is ignored.
func Open(ctx context.Context, form lazyblock.Form, opts Options) (lazyblock.Volume, error) {
	if opts.Memory == nil {
		opts.Memory = span.NewMemory(span.DefaultMemory, nil)
	}
	tables, prefetches, err := sort(form)
	if err != nil {
		return lazyblock.Volume{}, fmt.Errorf("open volume %s: %w", form.ID, err)
	}
	layers := make([]layer, len(form.Layers))
	group, gctx := errgroup.WithContext(ctx) // waited for below
	group.SetLimit(openAtOnce)
	for i, blob := range form.Layers {
		l := &layers[i]
		of := blob.Descriptor.Digest
		group.Go(func() error {
			if err := l.open(gctx, blob, tables[of], opts.Memory); err != nil {
				return fmt.Errorf("layer %d (%s): %w", i, of, err)
			}
			if artifact, ok := prefetches[of]; ok {
				l.hints = readHints(gctx, artifact, i, l.spans)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return lazyblock.Volume{}, errors.Join(fmt.Errorf("open volume %s: %w", form.ID, err), closeAll(layers))
	}
	opened := make([]toc.Layer, len(layers))
	var found []lazyblock.Hint
	for i := range layers {
		opened[i] = layers[i].Layer
		found = append(found, layers[i].hints...)
	}
	volume, err := toc.Open(ctx, form.ID, opened, toc.Options{Limits: opts.Limits})
	volume.Hints = found
	return volume, err
}

// layer is an opened layer.
type layer struct {
	toc.Layer

	spans []span.Span
	hints []lazyblock.Hint
}

// open opens a layer by its table, or without one where that is nil.
func (l *layer) open(ctx context.Context, blob lazyblock.FormBlob, table *lazyblock.FormBlob, memory *span.Memory) (err error) {
	if table == nil {
		l.Layer, err = plainlayer.Open(ctx, blob, memory)
		return err
	}
	message, err := whole.Read(ctx, *table, maxTable)
	if err != nil {
		return fmt.Errorf("table: %w", err)
	}
	z, err := parseZtoc(message)
	if err != nil {
		return err
	}
	content, spans, err := z.content(blob.RangeReader, memory)
	if err != nil {
		return err
	}
	l.Entries, l.Content, l.spans = z.entries(), content, spans
	return nil
}

// sort tells by layer which tables and prefetch artifacts a form has, and refuses
// forms that would take too much to open.
func sort(form lazyblock.Form) (tables, prefetches map[digest.Digest]*lazyblock.FormBlob, err error) {
	tables, prefetches = map[digest.Digest]*lazyblock.FormBlob{}, map[digest.Digest]*lazyblock.FormBlob{}
	total := int64(0)
	for i := range form.Tables {
		table := &form.Tables[i]
		kind := tables
		if table.Descriptor.MediaType == mediaTypePrefetch {
			kind = prefetches
		} else {
			total += table.Size()
		}
		of := digest.Digest(table.Descriptor.Annotations[annotationLayer])
		if _, twice := kind[of]; !twice {
			kind[of] = table
		}
	}
	if total > maxTables {
		return nil, nil, reason.Errorf(reason.FormatCorrupt, "tables of %d bytes, more than %d", total, maxTables)
	}
	var plain []lazyblock.FormBlob
	for _, blob := range form.Layers {
		if tables[blob.Descriptor.Digest] == nil {
			plain = append(plain, blob)
		}
	}
	if err := plainlayer.Check(plain); err != nil {
		return nil, nil, err
	}
	return tables, prefetches, nil
}

// readHints returns what a prefetch artifact names, nothing where it is broken: it
// is advice.
func readHints(ctx context.Context, artifact *lazyblock.FormBlob, blob int, spans []span.Span) []lazyblock.Hint {
	data, err := whole.Read(ctx, *artifact, maxPrefetch)
	if err != nil {
		return nil
	}
	found, err := hints(data, blob, spans)
	if err != nil {
		return nil
	}
	return found
}

func closeAll(layers []layer) error {
	var errs []error
	for i := range layers {
		if closer, ok := layers[i].Content.(io.Closer); ok {
			errs = append(errs, closer.Close())
		}
	}
	return errors.Join(errs...)
}

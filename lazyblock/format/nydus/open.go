package nydus

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/lazyblock"
	"github.com/referee-cri/referee/lazyblock/format/span"
	"github.com/referee-cri/referee/lazyblock/format/whole"
)

// parallelOpens is how many blobs are looked into at a time.
const parallelOpens = 8

// Open returns the volume of an image whose layers are its blobs and, last, the
// layer of its bootstrap. Original layers that hold data are among the form's
// tables. memory keeps decoded chunks; nil: each blob has its own.
func Open(ctx context.Context, form lazyblock.Form, memory *span.Memory) (lazyblock.Volume, error) {
	v, err := open(ctx, form, memory)
	if err != nil {
		return lazyblock.Volume{}, fmt.Errorf("open nydus image: %w", err)
	}
	return v, nil
}

func open(ctx context.Context, form lazyblock.Form, memory *span.Memory) (lazyblock.Volume, error) {
	last := len(form.Layers) - 1
	if last < 0 {
		return lazyblock.Volume{}, reason.Errorf(reason.ArtifactInvalid, "it has no layers")
	}
	img, err := fetchBootstrap(ctx, form.Layers[last])
	if err != nil {
		return lazyblock.Volume{}, err
	}
	boot, err := parseBootstrap(ctx, img)
	if err != nil {
		return lazyblock.Volume{}, fmt.Errorf("bootstrap: %w", err)
	}
	sequences, err := boot.openBlobs(ctx, form, memory)
	if err != nil {
		return lazyblock.Volume{}, err
	}
	v := lazyblock.Volume{
		FSType:  "erofs",
		Primary: lazyblock.NewDevice(form.ID, img, nil),
		Hints:   boot.hints(ctx, sequences),
	}
	for i, s := range sequences {
		v.Extra = append(v.Extra, lazyblock.NewDevice(fmt.Sprintf("%s.%d", form.ID, i+1), s, s))
	}
	return v, nil
}

// openBlobs opens every blob of the bootstrap, in its order.
func (b *bootstrap) openBlobs(ctx context.Context, form lazyblock.Form, memory *span.Memory) ([]*sequence, error) {
	last := len(form.Layers) - 1
	blobs := slices.Concat(form.Layers, form.Tables) // as hints count them
	byID := make(map[string]int)
	for i, blob := range blobs {
		if _, twice := byID[blob.Descriptor.Digest.Encoded()]; !twice && i != last {
			byID[blob.Descriptor.Digest.Encoded()] = i
		}
	}
	rows, err := b.parseRows()
	if err != nil {
		return nil, fmt.Errorf("bootstrap: %w", err)
	}
	decoder, err := newDecoder()
	if err != nil {
		return nil, err
	}
	sequences := make([]*sequence, len(b.blobs))
	group, groupCtx := errgroup.WithContext(ctx) // waited for below
	group.SetLimit(parallelOpens)
	for i := range b.blobs {
		group.Go(func() error {
			info := &b.blobs[i]
			layer, ok := byID[info.id]
			if !ok {
				return refused("blob %s is not among the layers of the image", info.id)
			}
			list := blobs[layer]
			if info.features&featureZran != 0 {
				n, ok := byID[info.listID]
				if !ok {
					return refused("blob %s, which lists the chunks of layer %s, is not among the layers of the image", info.listID, info.id)
				}
				list = blobs[n]
			}
			s, err := openBlob(groupCtx, blobs[layer].RangeReader, list, info, rows[i], decoder, memory)
			if err != nil {
				return fmt.Errorf("blob %s: %w", info.id, err)
			}
			s.layer = layer
			sequences[i] = s
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, errors.Join(err, closeAll(sequences))
	}
	return sequences, nil
}

// openBlob makes a sequence of the chunks of a blob: as the bootstrap lists them,
// or the blob itself where some are compressed together or the bootstrap lists
// none. An original layer is listed by another blob.
func openBlob(ctx context.Context, r lazyblock.RangeReader, of lazyblock.FormBlob, blob *blobInfo, rows []chunk, decoder *decoder, memory *span.Memory) (*sequence, error) {
	list := blobList{chunks: rows}
	if blob.features&(featureBatch|featureZran) != 0 || len(rows) == 0 && blob.chunks > 0 {
		var err error
		if list, err = decoder.fetchList(ctx, of, blob); err != nil {
			return nil, err
		}
		takeDigests(list.chunks, rows)
	}
	spans, units, err := units(blob, list)
	if err != nil {
		return nil, err
	}
	decode := func(i int, dst, src []byte) error { return decoder.decodeUnit(blob, list.cuts, &units[i], dst, src) }
	reader, err := span.New(r, spans, decode, span.Options{Size: blob.size, Memory: memory})
	if err != nil {
		return nil, err
	}
	return newSequence(reader, spans), nil
}

// fetchList reads what a blob lists. One that holds nothing else is fetched whole
// and compared with its digest, which the bootstrap names.
func (d *decoder) fetchList(ctx context.Context, of lazyblock.FormBlob, blob *blobInfo) (blobList, error) {
	if blob.features&featureZran == 0 {
		return lazyblock.Reread(ctx, of.RangeReader, func(ctx context.Context, r lazyblock.RangeReader) (blobList, error) {
			return d.readChunks(ctx, r, blob)
		})
	}
	content, err := whole.Read(ctx, of, maxMember)
	if err != nil {
		return blobList{}, fmt.Errorf("list of chunks: %w", err)
	}
	return d.readChunks(ctx, image(content), blob)
}

// takeDigests gives chunks the digests that the bootstrap has of them: it is
// covered by its own.
func takeDigests(chunks, rows []chunk) {
	for i := range rows {
		if n := int(rows[i].index); n < len(chunks) {
			chunks[n].digest = rows[i].digest
		}
	}
}

func closeAll(sequences []*sequence) error {
	var errs []error
	for _, s := range sequences {
		if s != nil {
			errs = append(errs, s.Close())
		}
	}
	return errors.Join(errs...)
}

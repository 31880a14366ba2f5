package ondisk

import (
	"context"

	"github.com/referee-cri/referee/lazyblock"
)

// Metadata lies scattered between data. It is read in aligned pages larger than a
// block, so that neighbours cost one round trip, and of these at most 32 MiB are
// kept.
const (
	pageSize  = 32 << 10
	keptPages = 1024
)

// pages reads an image through the pages kept of it.
type pages struct {
	image lazyblock.RangeReader
	kept  map[int64][]byte // by page number
	order []int64          // as they came
}

// read returns n bytes at off. The caller must not change them.
func (p *pages) read(ctx context.Context, off, n int64) ([]byte, error) {
	if off < 0 || n < 0 || off > p.image.Size()-n {
		return nil, corrupt("%d bytes at %d of an image of %d", n, off, p.image.Size())
	}
	number, within := off/pageSize, off%pageSize
	if within+n > pageSize {
		return p.join(ctx, off, n)
	}
	page, err := p.page(ctx, number)
	if err != nil {
		return nil, err
	}
	return page[within : within+n], nil
}

// join copies what lies on several pages.
func (p *pages) join(ctx context.Context, off, n int64) ([]byte, error) {
	joined := make([]byte, 0, n)
	for end := off + n; off < end; {
		piece := min(end-off, pageSize-off%pageSize)
		b, err := p.read(ctx, off, piece)
		if err != nil {
			return nil, err
		}
		joined = append(joined, b...)
		off += piece
	}
	return joined, nil
}

func (p *pages) page(ctx context.Context, number int64) ([]byte, error) {
	if page := p.kept[number]; page != nil {
		return page, nil
	}
	page, err := p.fetch(ctx, number)
	if err == nil {
		p.keep(number, page)
	}
	return page, err
}

func (p *pages) fetch(ctx context.Context, number int64) ([]byte, error) {
	off := number * pageSize
	return readAt(ctx, p.image, off, min(pageSize, p.image.Size()-off))
}

// keep keeps a page in place of the one that came first.
func (p *pages) keep(number int64, page []byte) {
	if len(p.order) == keptPages {
		delete(p.kept, p.order[0])
		p.order = append(p.order[:0], p.order[1:]...)
	}
	if p.kept == nil {
		p.kept = make(map[int64][]byte)
	}
	p.kept[number] = page
	p.order = append(p.order, number)
}

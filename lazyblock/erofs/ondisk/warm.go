package ondisk

import (
	"context"
	"slices"

	"golang.org/x/sync/errgroup"
)

const (
	parallelPages = 16        // that are read at a time
	maxWarm       = 256 << 10 // inodes that are read ahead
)

// Warm reads ahead what a walk will need, all of one depth of the tree side by
// side: over a network the walk then costs round trips by the depth of the tree,
// not by its directories. Pages are kept up to a bound; the walk reads the rest by
// itself, and tells what is broken.
func (i *Image) Warm(ctx context.Context) error {
	entered := map[uint64]bool{i.RootNID: true}
	for level := []uint64{i.RootNID}; len(level) > 0 && !i.pages.full(); {
		if err := i.pages.load(ctx, i.inodePages(level)); err != nil {
			return err
		}
		dirs, where := i.directories(ctx, level)
		if err := i.pages.load(ctx, where); err != nil {
			return err
		}
		level = level[:0:0]
		for _, dir := range dirs {
			entries, err := i.entries(ctx, dir)
			if err != nil {
				continue
			}
			for _, e := range entries {
				if !entered[e.nid] && len(entered) < maxWarm {
					entered[e.nid] = true
					level = append(level, e.nid)
				}
			}
		}
	}
	return ctx.Err()
}

// inodePages are the pages on which inodes begin.
func (i *Image) inodePages(nids []uint64) []int64 {
	var pages []int64
	start := int64(i.MetaBlock) << i.BlockBits
	for _, nid := range nids {
		if nid <= uint64(max(i.pages.image.Size()-start, 0))/slotSize {
			pages = append(pages, (start+int64(nid)*slotSize)/pageSize)
		}
	}
	return pages
}

// directories returns those of the inodes that are directories, and the pages with
// their content.
func (i *Image) directories(ctx context.Context, nids []uint64) (dirs []*File, pages []int64) {
	for _, nid := range nids {
		f, err := i.File(ctx, nid)
		if err != nil || !f.Inode.IsDir() || f.size > maxDirectory {
			continue
		}
		extents, err := i.extents(ctx, f)
		if err != nil {
			continue
		}
		dirs = append(dirs, f)
		for _, e := range extents {
			for page := e.Off / pageSize; e.Device == 0 && page*pageSize < e.Off+e.Length; page++ {
				pages = append(pages, page)
			}
		}
	}
	return dirs, pages
}

// full tells whether further pages would put out those that are kept.
func (p *pages) full() bool { return len(p.order) >= keptPages }

// load reads the pages that are not kept yet, side by side, as many as there is
// room for.
func (p *pages) load(ctx context.Context, numbers []int64) error {
	slices.Sort(numbers)
	numbers = slices.DeleteFunc(slices.Compact(numbers), func(n int64) bool {
		return p.kept[n] != nil || n*pageSize >= p.image.Size()
	})
	numbers = numbers[:min(len(numbers), keptPages-len(p.order))]
	loaded := make([][]byte, len(numbers))
	group, ctx := errgroup.WithContext(ctx) // waited for below
	group.SetLimit(parallelPages)
	for n, number := range numbers {
		group.Go(func() (err error) {
			loaded[n], err = p.fetch(ctx, number)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	for n, number := range numbers {
		p.keep(number, loaded[n])
	}
	return nil
}

package toc

import (
	"cmp"
	"math"
	"slices"
	"sort"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/lazyblock/erofs"
)

// extent is a file's place on the disk: 24 bytes for each of them.
type extent struct {
	block uint32 // where it begins on the disk
	layer uint32 // whose content has it
	at    int64  // in the content
	size  int64
}

func (e *extent) start() int64 { return int64(e.block) << blockBits }
func (e *extent) end() int64   { return e.start() + e.size }

// places are the extents of a disk, sorted by block.
type places []extent

// place gives every regular file of tree a place from block on, and returns the
// first free block behind them. Files that lie side by side in a layer do so on
// the disk, so that reading ahead over the one reads ahead over the other. Files
// of the same bytes share a place.
func place(tree *erofs.Tree, block uint64) (places, uint64, error) {
	var files []*erofs.Inode
	for file := range tree.Files() {
		if file.Size == 0 {
			continue
		}
		files = append(files, file)
	}
	slices.SortFunc(files, func(a, b *erofs.Inode) int {
		return cmp.Or(cmp.Compare(a.Data.Device, b.Data.Device), cmp.Compare(a.Data.Block, b.Data.Block), cmp.Compare(a.Size, b.Size))
	})
	extents := make(places, 0, len(files))
	for _, file := range files {
		here := extent{layer: uint32(file.Data.Device - 1), at: int64(file.Data.Block), size: file.Size}
		if n := len(extents); n > 0 {
			last := extents[n-1]
			if last.layer == here.layer && last.at == here.at && last.size == here.size {
				file.Data = erofs.Extent{Block: uint64(last.block)}
				continue
			}
		}
		blocks := uint64(file.Size-1)>>blockBits + 1
		if block+blocks > math.MaxUint32 {
			return nil, 0, reason.Errorf(reason.FormatCorrupt, "files of more than %d blocks of %d bytes", uint32(math.MaxUint32), blockSize)
		}
		here.block = uint32(block)
		file.Data = erofs.Extent{Block: block}
		extents = append(extents, here)
		block += blocks
	}
	return extents, block, nil
}

// find returns the first extent that ends behind off.
func (p places) find(off int64) int {
	return sort.Search(len(p), func(i int) bool { return p[i].end() > off })
}

package nydus

import (
	"context"
	"encoding/binary"
	"slices"
	"sort"

	"github.com/referee-cri/referee/lazyblock"
	"github.com/referee-cri/referee/lazyblock/erofs"
	"github.com/referee-cri/referee/lazyblock/erofs/ondisk"
)

// Bounds of what a table of files to prefetch may make us do.
const (
	maxHintFiles = 100_000
	maxHints     = 10_000
)

// hints are the ranges of blobs that hold the files of the prefetch table, and
// what its directories hold, in that order. A table that cannot be followed to its
// end is followed as far as it leads: it is advice.
func (b *bootstrap) hints(ctx context.Context, sequences []*sequence) []lazyblock.Hint {
	img, err := ondisk.Open(ctx, b.image)
	if err != nil {
		return nil
	}
	h := hinting{image: img, sequences: sequences}
	for nid := range slices.Chunk(b.prefetch, nidSize) {
		f, err := img.File(ctx, uint64(binary.LittleEndian.Uint32(nid)))
		if err == nil && f.Inode.IsDir() {
			err = img.Below(ctx, f, func(_ string, f *ondisk.File) error { return h.add(ctx, f) })
		} else if err == nil {
			err = h.add(ctx, f)
		}
		if err != nil {
			break
		}
	}
	return h.found
}

type hinting struct {
	image     *ondisk.Image
	sequences []*sequence
	files     int
	found     []lazyblock.Hint
}

// errEnough ends the following of the table.
var errEnough = corrupt("more files to prefetch than are followed")

// add appends the ranges of a file, joined with what is before them in the blob.
func (h *hinting) add(ctx context.Context, f *ondisk.File) error {
	if h.files++; h.files > maxHintFiles || len(h.found) > maxHints {
		return errEnough
	}
	if f.Inode.Type() != erofs.TypeRegular {
		return nil
	}
	extents, err := h.image.Extents(ctx, f)
	if err != nil {
		return err
	}
	for _, e := range extents {
		if e.Device == 0 {
			continue
		}
		s := h.sequences[e.Device-1]
		first := sort.Search(len(s.spans), func(i int) bool { return s.spans[i].At+s.spans[i].Size > e.Off })
		for i := first; i < len(s.spans) && s.spans[i].At < e.Off+e.Length; i++ {
			h.append(lazyblock.Hint{Blob: s.layer, Off: s.spans[i].Off, Length: s.spans[i].Stored})
		}
	}
	return nil
}

func (h *hinting) append(hint lazyblock.Hint) {
	if n := len(h.found); n > 0 {
		last := &h.found[n-1]
		if last.Blob == hint.Blob && last.Off+last.Length == hint.Off {
			last.Length += hint.Length
			return
		}
	}
	h.found = append(h.found, hint)
}

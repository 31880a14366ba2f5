package trace

import (
	"cmp"
	"context"
	"slices"

	"golang.org/x/sync/errgroup"
)

// How a trace is replayed: in the order of first use, but within batch bytes in
// the order of the blob, so that neighbours become one request. A gap that is
// cheaper to fetch than to ask around is fetched. There are as many requests under
// way as it takes to keep a link of 50 ms and 200 Mbit/s busy with short ones.
const (
	batch    = 8 << 20
	gap      = 32 << 10
	longest  = 4 << 20
	inFlight = 12
)

// requests merges ranges into few large ones. At most most bytes are asked for.
func requests(ranges []Range, most int64) []Range {
	var merged []Range
	for len(ranges) > 0 && most > 0 {
		n, size := 0, int64(0)
		for n < len(ranges) && (n == 0 || size+ranges[n].Length <= batch) {
			size += ranges[n].Length
			n++
		}
		for _, r := range mergeBatch(ranges[:n]) {
			if r.Length > most {
				return merged
			}
			most -= r.Length
			merged = append(merged, r)
		}
		ranges = ranges[n:]
	}
	return merged
}

func mergeBatch(ranges []Range) []Range {
	ranges = slices.Clone(ranges)
	slices.SortFunc(ranges, func(a, b Range) int {
		return cmp.Or(cmp.Compare(a.Layer, b.Layer), cmp.Compare(a.Offset, b.Offset))
	})
	var merged []Range
	for _, r := range ranges {
		if last := len(merged) - 1; last >= 0 && merged[last].Layer == r.Layer {
			m := &merged[last]
			end := max(m.Offset+m.Length, r.Offset+r.Length)
			if r.Offset <= m.Offset+m.Length+gap && end-m.Offset <= longest {
				m.Length = end - m.Offset
				continue
			}
		}
		merged = append(merged, r)
	}
	return merged
}

// replay fetches what requests say, several at a time, and returns how many were
// made, of how many bytes, and the first error, which ends it.
func replay(ctx context.Context, requests []Range, prefetch func(context.Context, Range) error) (made int, bytes int64, err error) {
	group, fetching := errgroup.WithContext(ctx)
	group.SetLimit(inFlight)
	for _, r := range requests {
		if fetching.Err() != nil {
			break
		}
		made++
		bytes += r.Length
		group.Go(func() error { return prefetch(fetching, r) })
	}
	return made, bytes, group.Wait()
}

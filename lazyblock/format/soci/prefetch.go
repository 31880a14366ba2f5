package soci

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/referee-cri/referee/lazyblock"
	"github.com/referee-cri/referee/lazyblock/format/span"
)

const (
	prefetchVersion  = "1.0"
	maxPrefetch      = 1 << 20 // bytes of a prefetch artifact
	maxPrefetchHints = 10_000
)

// prefetch is a prefetch artifact: spans of one layer, ends included, lower
// priorities first.
type prefetch struct {
	Version string          `json:"version"`
	Spans   []prefetchSpans `json:"prefetch_spans"`
}

type prefetchSpans struct {
	Start    int `json:"start_span"`
	End      int `json:"end_span"`
	Priority int `json:"priority"`
}

// hints are the ranges of the layer, which is blob of its form, that a prefetch
// artifact names; spans are that layer's.
func hints(artifact []byte, blob int, spans []span.Span) ([]lazyblock.Hint, error) {
	var p prefetch
	if err := json.Unmarshal(artifact, &p); err != nil {
		return nil, fmt.Errorf("prefetch artifact: %w", err)
	}
	if p.Version != prefetchVersion {
		return nil, fmt.Errorf("prefetch artifact: version %.20q, want %s", p.Version, prefetchVersion)
	}
	if len(p.Spans) > maxPrefetchHints {
		return nil, fmt.Errorf("prefetch artifact: %d ranges, more than %d", len(p.Spans), maxPrefetchHints)
	}
	slices.SortStableFunc(p.Spans, func(a, b prefetchSpans) int { return cmp.Compare(a.Priority, b.Priority) })
	var found []lazyblock.Hint
	for _, r := range p.Spans {
		if r.Start < 0 || r.End < r.Start || r.End >= len(spans) {
			return nil, fmt.Errorf("prefetch artifact: spans %d to %d of %d", r.Start, r.End, len(spans))
		}
		first, last := spans[r.Start], spans[r.End]
		found = append(found, lazyblock.Hint{Blob: blob, Off: first.Off, Length: last.Off + last.Stored - first.Off})
	}
	return found, nil
}

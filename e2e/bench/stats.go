package main

import (
	"fmt"
	"slices"
	"time"
)

// Durations are repeated measurements of one thing.
type Durations []time.Duration

// quantile returns the q-quantile, between the two nearest values.
func quantile[T ~int64](values []T, q float64) T {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	at := q * float64(len(sorted)-1)
	below := int(at)
	above := min(below+1, len(sorted)-1)
	return sorted[below] + T((at-float64(below))*float64(sorted[above]-sorted[below]))
}

func (d Durations) median() time.Duration { return quantile(d, 0.5) }

// text is the median with the least and the greatest value.
func (d Durations) text() string {
	if len(d) == 0 {
		return "-"
	}
	return fmt.Sprintf("%.3f (%.3f-%.3f)", d.median().Seconds(), slices.Min(d).Seconds(), slices.Max(d).Seconds())
}

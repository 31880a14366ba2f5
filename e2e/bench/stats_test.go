package main

import (
	"testing"
	"time"
)

func TestQuantile(t *testing.T) {
	t.Parallel()
	d := Durations{4 * time.Second, time.Second, 3 * time.Second, 2 * time.Second}
	for q, want := range map[float64]time.Duration{0: time.Second, 0.5: 2500 * time.Millisecond, 1: 4 * time.Second} {
		if got := quantile(d, q); got != want {
			t.Errorf("quantile %v is %v, want %v", q, got, want)
		}
	}
	if got := (Durations{}).median(); got != 0 {
		t.Errorf("median of nothing is %v", got)
	}
	if got := d.text(); got != "2.500 (1.000-4.000)" {
		t.Errorf("text is %q", got)
	}
}

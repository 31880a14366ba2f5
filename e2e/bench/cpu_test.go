package main

import (
	"testing"
	"time"
)

func TestCPUOf(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		stat string
		want time.Duration
		ok   bool
	}{
		"sums the process and its children":    {"7 (a) S 1 7 7 0 -1 4194560 1 2 3 4 100 20 3 1 20 0", 1240 * time.Millisecond, true},
		"knows names with spaces and brackets": {"7 (a) b (c) S 1 7 7 0 -1 4194560 1 2 3 4 100 0 0 0 20 0", time.Second, true},
		"refuses a short line":                 {"7 (a) S 1 7 7 0 -1 4194560 1 2 3 4 100", 0, false},
		"refuses what is no number":            {"7 (a) S 1 7 7 0 -1 4194560 1 2 3 4 x 0 0 0", 0, false},
		"refuses an empty line":                {"", 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			used, err := cpuOf(tc.stat)
			if used != tc.want && tc.ok || (err == nil) != tc.ok {
				t.Errorf("cpuOf = %s, %v; want %s, ok %t", used, err, tc.want, tc.ok)
			}
		})
	}
}

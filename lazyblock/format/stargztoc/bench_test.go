package stargztoc

import (
	"fmt"
	"strings"
	"testing"
)

// BenchmarkParse reads the table of 100,000 files as stargz-snapshotter spells it.
func BenchmarkParse(b *testing.B) {
	var rows []string
	for i := range 100_000 {
		rows = append(rows, fmt.Sprintf(`
		{
			"name": "usr/lib/python3/dist-packages/package%02d/some_source_file_%05d.py",
			"type": "reg",
			"size": 4096,
			"modtime": "2023-11-14T23:21:36Z",
			"mode": 420,
			"offset": %d,
			"digest": "SUM",
			"chunkDigest": "SUM"
		}`, i%40, i, 100+i*2000))
	}
	json := document(rows...)
	b.SetBytes(int64(len(json)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse(b.Context(), strings.NewReader(json), &Budget{}); err != nil {
			b.Fatal(err)
		}
	}
}

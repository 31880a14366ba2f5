package soci

import (
	"fmt"
	"testing"
)

// BenchmarkOpen opens a layer of 100,000 files by its table.
func BenchmarkOpen(b *testing.B) {
	layer := compress(b, makeTar(b, 1, 1000), 0)
	table := tableOf(b, layer, 4<<20)
	for i := range 100_000 {
		table.files = append(table.files, message{
			fileName: fmt.Sprintf("usr/lib/directory%03d/sub%02d/file%05d.py", i/1000, i/50%20, i), fileType: "reg",
			fileOffset: int64(512), fileSize: int64(i % 1000), fileMode: int64(0o644), fileUID: uint32(0), fileGID: uint32(0),
			fileModTime: "2026-01-02T03:04:05Z",
		})
	}
	form := formOf(layer, table.encode())
	b.SetBytes(form.Tables[0].Descriptor.Size)
	b.ReportAllocs()
	for b.Loop() {
		v, err := Open(b.Context(), form, Options{})
		if err != nil {
			b.Fatal(err)
		}
		if err := v.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

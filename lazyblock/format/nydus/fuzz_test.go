package nydus

import (
	"testing"

	"github.com/referee-cri/referee/internal/rafstest"
	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/lazyblock/format/span"
)

// FuzzList reads whatever list of chunks, of batches and of stretches of gzip, and
// decodes what it leads to.
func FuzzList(f *testing.F) {
	for _, opts := range []rafstest.Options{
		{}, {V2: true}, {Compression: rafstest.Zstd, Batch: 8192}, {Zran: true},
	} {
		l := rafstest.WriteList(f, opts)
		f.Add(l.Rows, l.Features, uint16(l.Chunks), uint64(l.Off), uint64(l.Size), uint32(l.Count))
	}
	d, err := newDecoder()
	if err != nil {
		f.Fatal(err)
	}
	data := make(image, 1<<20)
	for i := range data {
		data[i] = byte(i * i >> 3)
	}
	f.Fuzz(func(t *testing.T, rows []byte, features uint32, chunks uint16, off, size uint64, count uint32) {
		blob := &blobInfo{chunks: int(chunks), compression: compressionGzip, features: features, size: 1 << 30}
		list, err := parseMeta(rows, blob, unitTable{off, size, uint64(count)})
		if err != nil {
			expectReason(t, err)
			return
		}
		spans, units, err := units(blob, list)
		if err != nil {
			expectReason(t, err)
			return
		}
		decode := func(i int, dst, src []byte) error { return d.decodeUnit(blob, list.cuts, &units[i], dst, src) }
		reader, err := span.New(data, spans, decode, span.Options{Size: blob.size})
		if err != nil {
			expectReason(t, err)
			return
		}
		for i := range min(len(spans), 4) {
			if _, err := reader.ReadRange(t.Context(), make([]byte, 1), spans[i].At); err != nil {
				expectReason(t, err)
			}
		}
	})
}

func expectReason(t *testing.T, err error) {
	t.Helper()
	if code := reason.Of(err); code != reason.FormatCorrupt && code != reason.NotAttachable {
		t.Errorf("error %v has code %q", err, code)
	}
}

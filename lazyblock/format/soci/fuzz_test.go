package soci

import (
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/lazyblock/format/span"
)

// FuzzZtoc reads a layer through arbitrary tables.
func FuzzZtoc(f *testing.F) {
	data := makeTar(f, 3, 3000)
	layer := compress(f, data, 0)
	good := tableOf(f, layer, 4<<20)
	f.Add(good.encode())
	good.files[1][fileRecords] = []message{{recordKey: "SCHILY.xattr.user.a", recordValue: "b"}}
	good.files[2][fileType] = "symlink"
	good.zinfo = nil
	f.Add(good.encode())
	f.Add(tarTable(f, data, 1024).encode())
	f.Fuzz(func(t *testing.T, table []byte) {
		v, err := Open(t.Context(), formOf(layer, table), Options{})
		if err == nil {
			defer v.Close()
			_, err = v.Primary.ReadRange(t.Context(), make([]byte, min(v.Primary.Size(), 1<<20)), 0)
		}
		if code := reason.Of(err); code != reason.None && code != reason.FormatCorrupt {
			t.Errorf("error with code %q: %v", code, err)
		}
	})
}

// FuzzZinfo decodes arbitrary checkpoints, and spans through them.
func FuzzZinfo(f *testing.F) {
	layer := compress(f, makeTar(f, 30, 3000), 20_000)
	good := tableOf(f, layer, 10_000)
	f.Add(good.zinfo[:zinfoHead+zinfoRecord], int64(1000), len(good.digests))
	f.Add(good.zinfo, good.uncompressed, len(good.digests))
	f.Add(good.zinfo[:zinfoHead], int64(0), 1)
	f.Fuzz(func(t *testing.T, zinfo []byte, uncompressed int64, spans int) {
		if spans < 0 || spans > 1000 {
			return
		}
		z := &ztoc{compressed: int64(len(layer)), uncompressed: uncompressed, checkpoints: zinfo, digests: make(span.Digests, spans)}
		x, err := z.gzipIndex()
		if err != nil {
			return
		}
		for i := range x.Checkpoints {
			_, size, in, stored := x.Span(i)
			if err := x.Decode(i, make([]byte, size), layer[in:in+stored]); err == nil && size > int64(len(layer))*1100 {
				t.Errorf("span %d inflates to %d bytes", i, size)
			}
		}
	})
}

// FuzzPlain indexes arbitrary layers.
func FuzzPlain(f *testing.F) {
	data := makeTar(f, 3, 1000)
	f.Add(data)
	f.Add(compress(f, data, 0))
	f.Add(compress(f, data, 700))
	z, err := zstd.NewWriter(nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(z.EncodeAll(data[700:], z.EncodeAll(data[:700], nil)))
	f.Fuzz(func(t *testing.T, layer []byte) {
		v, err := Open(t.Context(), formOf(layer, nil), Options{})
		if err != nil {
			return
		}
		defer v.Close()
		// What was indexed is read back the same way.
		if n, err := v.Primary.ReadRange(t.Context(), make([]byte, v.Primary.Size()), 0); int64(n) != v.Primary.Size() {
			t.Errorf("read %d of %d bytes: %v", n, v.Primary.Size(), err)
		}
	})
}

// FuzzPrefetch decodes arbitrary prefetch artifacts.
func FuzzPrefetch(f *testing.F) {
	f.Add([]byte(`{"version":"1.0","prefetch_spans":[{"start_span":0,"end_span":0,"priority":1}]}`))
	f.Fuzz(func(t *testing.T, artifact []byte) {
		found, err := hints(artifact, 0, nil)
		if err == nil && len(found) > 0 {
			t.Errorf("hints %v of a layer without spans", found)
		}
	})
}

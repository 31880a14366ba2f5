package turbooci

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/referee-cri/referee/internal/reason"
)

// smallMeta is a gzip.meta of one checkpoint.
func smallMeta(size int64) []byte {
	le := binary.LittleEndian
	b := make([]byte, metaHeader, metaHeader+metaEntry)
	copy(b, metaMagic)
	b[8] = metaMajor
	le.PutUint32(b[13:], 1<<20)
	le.PutUint32(b[17:], 32<<10)
	le.PutUint32(b[21:], metaEntry)
	le.PutUint64(b[25:], 1)
	le.PutUint64(b[33:], uint64(size))
	le.PutUint64(b[41:], metaHeader+metaEntry)
	le.PutUint64(b[49:], 3000)
	le.PutUint64(b[313:], metaHeader)
	le.PutUint64(b[321:], metaEntry)
	entry := make([]byte, metaEntry)
	le.PutUint64(entry[8:], 10)
	le.PutUint64(entry[16:], metaHeader)
	return checked(append(b, entry...))
}

// FuzzGzipMeta decodes arbitrary checkpoints, with a right CRC, and spans through them.
func FuzzGzipMeta(f *testing.F) {
	layer := pack(f, map[string][]byte{"file": bytes.Repeat([]byte("content "), 200)})
	f.Add(smallMeta(int64(len(layer))))
	f.Fuzz(func(t *testing.T, meta []byte) {
		if len(meta) >= metaHeader {
			meta = checked(bytes.Clone(meta))
		}
		x, err := parseGzipMeta(meta, int64(len(layer)))
		if err != nil {
			if reason.Of(err) != reason.FormatCorrupt {
				t.Errorf("error with code %q: %v", reason.Of(err), err)
			}
			return
		}
		for i := range x.Checkpoints {
			_, size, in, stored := x.Span(i)
			_ = x.Decode(i, make([]byte, size), layer[in:in+stored]) // must not panic
		}
	})
}

// FuzzArchive opens arbitrary archives.
func FuzzArchive(f *testing.F) {
	layer := pack(f, map[string][]byte{"file": bytes.Repeat([]byte("content "), 200)})
	f.Add(pack(f, map[string][]byte{memberExt4: []byte("metadata"), memberGzip: smallMeta(int64(len(layer)))}))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, archive []byte) {
		v, err := Open(t.Context(), formOf(layer, archive), Options{})
		if err == nil {
			err = v.Close()
		}
		if code := reason.Of(err); code != reason.None && code != reason.FormatCorrupt {
			t.Errorf("error with code %q: %v", reason.Of(err), err)
		}
	})
}

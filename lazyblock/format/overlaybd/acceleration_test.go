package overlaybd

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/binary"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/referee-cri/referee/internal/reason"
)

// memory is a blob.
type memory []byte

func (m memory) Size() int64 { return int64(len(m)) }

func (m memory) ReadRange(_ context.Context, p []byte, off int64) (int, error) {
	return bytes.NewReader(m).ReadAt(p, off)
}

// accelerationLayer is a tar of one file, as the original writer makes it.
func accelerationLayer(t testing.TB, name string, content []byte) memory {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o444, Size: int64(len(content))}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// traceFile spells records as spec 6.2 does, with op for each.
func traceFile(op byte, records ...TraceRecord) []byte {
	var body []byte
	for _, r := range records {
		body = append(body, op, 0xAA, 0xBB, 0xCC) // the padding is covered by the CRC
		body = binary.LittleEndian.AppendUint32(body, uint32(r.Layer))
		body = binary.LittleEndian.AppendUint64(body, uint64(r.Length))
		body = binary.LittleEndian.AppendUint64(body, uint64(r.Off))
	}
	head := make([]byte, 0, traceHeaderSize)
	head = binary.LittleEndian.AppendUint64(head, traceMagic)
	head = binary.LittleEndian.AppendUint64(head, uint64(len(body)))
	head = binary.LittleEndian.AppendUint64(head, uint64(rawCRC(0, body)))
	return append(head, body...)
}

func TestReadAcceleration(t *testing.T) {
	t.Parallel()
	records := []TraceRecord{{0, 4096, 512}, {2, 0, 1 << 20}}
	broken := traceFile('R', records...)
	broken[len(broken)-1] ^= 1
	for name, tc := range map[string]struct {
		blob memory
		want *Acceleration // nil: refused
	}{
		"trace":           {accelerationLayer(t, "trace", traceFile('R', records...)), &Acceleration{Records: records}},
		"writes in it":    {accelerationLayer(t, "trace", traceFile('W', records...)), &Acceleration{Records: []TraceRecord{}}},
		"priority list":   {accelerationLayer(t, "trace", []byte("/usr/bin/python3\n usr/lib/python3.11/ \n/etc/*\n\n")), &Acceleration{Paths: []string{"usr/bin/python3", "usr/lib/python3.11", "etc"}}},
		"no path":         {accelerationLayer(t, "trace", []byte("/usr/bin/a b\n")), nil},
		"broken CRC":      {accelerationLayer(t, "trace", broken), nil},
		"cut short":       {accelerationLayer(t, "trace", traceFile('R', records...)[:60]), nil},
		"another file":    {accelerationLayer(t, "tracks", traceFile('R', records...)), nil},
		"a list too long": {accelerationLayer(t, "trace", bytes.Repeat([]byte("a\n"), maxPriorityList)), nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := ReadAcceleration(t.Context(), tc.blob)
			if tc.want == nil {
				if reason.Of(err) != reason.FormatCorrupt {
					t.Errorf("read %+v, %v", got, err)
				}
				return
			}
			if diff := cmp.Diff(tc.want, got); err != nil || diff != "" {
				t.Errorf("%v (-want +got):\n%s", err, diff)
			}
		})
	}
}

func FuzzDecodeAcceleration(f *testing.F) {
	f.Add(traceFile('R', TraceRecord{1, 2, 3}))
	f.Add([]byte("/bin/sh\nusr/*\n"))
	f.Fuzz(func(t *testing.T, content []byte) {
		got, err := decodeAcceleration(content)
		if err != nil {
			return
		}
		for _, r := range got.Records {
			if r.Length <= 0 || r.Off < 0 || r.Layer < 0 {
				t.Errorf("record %+v", r)
			}
		}
		for _, path := range got.Paths {
			if path == "" || path[0] == '/' {
				t.Errorf("path %q", path)
			}
		}
	})
}

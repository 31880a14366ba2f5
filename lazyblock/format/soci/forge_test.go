package soci

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"testing"

	"github.com/referee-cri/referee/lazyblock/format/gzindex"
)

// message is a FlatBuffers table by field number. Values are int64, uint32, int8,
// string, []byte, []string, message, []message and []*message; the last holds the
// same table many times.
type message map[int]any

// encode returns the message with its root.
func (m message) encode() []byte {
	b, at := m.appendTo([]byte{0, 0, 0, 0})
	binary.LittleEndian.PutUint32(b, uint32(at))
	return b
}

// appendTo appends vtable, table, and then what the table refers to: offsets lead
// forward.
func (m message) appendTo(b []byte) (out []byte, at int) {
	le := binary.LittleEndian
	ids := slices.Sorted(maps.Keys(m))
	last := -1
	if len(ids) > 0 {
		last = ids[len(ids)-1]
	}
	vtable := len(b)
	b = append(b, make([]byte, vtableHead+2*(last+1))...)
	le.PutUint16(b[vtable:], uint16(vtableHead+2*(last+1)))
	at = len(b)
	b = le.AppendUint32(b, uint32(at-vtable))
	refs := map[int]int{}
	for _, id := range ids {
		le.PutUint16(b[vtable+vtableHead+2*id:], uint16(len(b)-at))
		switch v := m[id].(type) {
		case int64:
			b = le.AppendUint64(b, uint64(v))
		case uint32:
			b = le.AppendUint32(b, v)
		case int8:
			b = append(b, byte(v))
		default:
			refs[id] = len(b)
			b = append(b, 0, 0, 0, 0)
		}
	}
	le.PutUint16(b[vtable+2:], uint16(len(b)-at))
	for _, id := range ids {
		if slot, ok := refs[id]; ok {
			b = appendRef(b, slot, m[id])
		}
	}
	return b, at
}

// appendRef appends a value and has the slot lead to it.
func appendRef(b []byte, slot int, value any) []byte {
	le := binary.LittleEndian
	at := len(b)
	switch v := value.(type) {
	case string:
		b = append(append(le.AppendUint32(b, uint32(len(v))), v...), 0)
	case []byte:
		b = append(le.AppendUint32(b, uint32(len(v))), v...)
	case message:
		b, at = v.appendTo(b)
	case []string:
		b = append(le.AppendUint32(b, uint32(len(v))), make([]byte, 4*len(v))...)
		for i, s := range v {
			b = appendRef(b, at+4+4*i, s)
		}
	case []message:
		b = append(le.AppendUint32(b, uint32(len(v))), make([]byte, 4*len(v))...)
		for i, m := range v {
			b = appendRef(b, at+4+4*i, m)
		}
	case []*message:
		b = append(le.AppendUint32(b, uint32(len(v))), make([]byte, 4*len(v))...)
		var one int
		b, one = v[0].appendTo(b)
		for i := range v {
			le.PutUint32(b[at+4+4*i:], uint32(one-(at+4+4*i)))
		}
	default:
		panic(fmt.Sprintf("value of type %T", value))
	}
	le.PutUint32(b[slot:], uint32(at-slot))
	return b
}

// forged is a table of contents of which any part can be false.
type forged struct {
	compressed, uncompressed int64
	algorithm                int8
	maxSpan                  uint32
	digests                  []string
	zinfo                    []byte
	files                    []message
}

func (f *forged) encode() []byte {
	return message{
		0: "0.9", 1: "test",
		ztocCompressedSize: f.compressed, ztocUncompressedSize: f.uncompressed,
		ztocTOC: message{tocMetadata: f.files},
		ztocCompressionInfo: message{
			infoAlgorithm: f.algorithm, infoMaxSpanID: f.maxSpan, infoSpanDigests: f.digests, infoCheckpoints: f.zinfo,
		},
	}.encode()
}

// tableOf makes the table of a layer, as soci does: spans of a little more than span
// bytes, and as its size what a tar reader reads.
func tableOf(t testing.TB, layer []byte, span int64) *forged {
	t.Helper()
	if !bytes.HasPrefix(layer, []byte{0x1f, 0x8b}) {
		return tarTable(t, layer, span)
	}
	f := &forged{algorithm: algorithmGzip, compressed: int64(len(layer))}
	var points []gzindex.Checkpoint
	f.zinfo = append(f.zinfo, make([]byte, zinfoHead)...)
	data, err := io.ReadAll(gzindex.NewReader(bytes.NewReader(layer), func(at gzindex.Checkpoint, window []byte) error {
		if n := len(points); n > 0 && at.Out-points[n-1].Out <= span {
			return nil
		}
		points = append(points, at)
		f.zinfo = binary.LittleEndian.AppendUint64(f.zinfo, uint64(at.In))
		f.zinfo = binary.LittleEndian.AppendUint64(f.zinfo, uint64(at.Out))
		f.zinfo = append(f.zinfo, at.Bits)
		f.zinfo = append(append(f.zinfo, make([]byte, gzindex.WindowSize-len(window))...), window...)
		return nil
	}))
	if err != nil {
		t.Fatal(err)
	}
	binary.LittleEndian.PutUint32(f.zinfo, uint32(len(points)))
	binary.LittleEndian.PutUint64(f.zinfo[4:], uint64(span))
	for i, p := range points {
		end := int64(len(layer))
		if i+1 < len(points) {
			end = points[i+1].In
		}
		f.digests = append(f.digests, fmt.Sprintf("sha256:%x", sha256.Sum256(layer[p.Start():end])))
	}
	f.maxSpan = uint32(len(points) - 1)
	f.files, f.uncompressed = tarFiles(t, data)
	return f
}

// tarTable makes the table of an uncompressed layer.
func tarTable(t testing.TB, layer []byte, span int64) *forged {
	t.Helper()
	f := &forged{algorithm: algorithmUncompressed, compressed: int64(len(layer))}
	f.files, f.uncompressed = tarFiles(t, layer)
	f.zinfo = message{tarVersion: uint32(2), tarSpanSize: span, tarSize: int64(len(layer))}.encode()
	for part := range slices.Chunk(layer, int(span)) {
		f.digests = append(f.digests, fmt.Sprintf("sha256:%x", sha256.Sum256(part)))
	}
	f.maxSpan = uint32(len(f.digests) - 1)
	return f
}

// tarFiles are the files of a tar, and how many bytes of it a tar reader reads.
func tarFiles(t testing.TB, data []byte) (files []message, read int64) {
	t.Helper()
	kinds := map[byte]string{
		tar.TypeReg: "reg", tar.TypeLink: "hardlink", tar.TypeSymlink: "symlink", tar.TypeDir: "dir",
		tar.TypeChar: "char", tar.TypeBlock: "block", tar.TypeFifo: "fifo",
	}
	r := bytes.NewReader(data)
	for tr := tar.NewReader(r); ; {
		header, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return files, int64(len(data) - r.Len())
		}
		if err != nil {
			t.Fatal(err)
		}
		modified, err := header.ModTime.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		file := message{
			fileName: header.Name, fileType: kinds[header.Typeflag], fileLinkname: header.Linkname,
			fileOffset: int64(len(data) - r.Len()), fileSize: header.Size, fileMode: header.Mode,
			fileUID: uint32(header.Uid), fileGID: uint32(header.Gid), fileModTime: string(modified),
			fileDevMajor: header.Devmajor, fileDevMinor: header.Devminor,
		}
		var records []message
		for _, key := range slices.Sorted(maps.Keys(header.PAXRecords)) {
			records = append(records, message{recordKey: key, recordValue: header.PAXRecords[key]})
		}
		if records != nil {
			file[fileRecords] = records
		}
		files = append(files, file)
	}
}

// makeTar writes files, each with size bytes that tell files apart.
func makeTar(t testing.TB, files int, size int) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := range files {
		data := make([]byte, size)
		for at := range data {
			data[at] = byte(at>>8 ^ at*(i+3) ^ i)
		}
		header := tar.Header{Name: fmt.Sprintf("dir/file%03d", i), Typeflag: tar.TypeReg, Mode: 0o640, Size: int64(size), Uid: i, Format: tar.FormatPAX}
		header.PAXRecords = map[string]string{"SCHILY.xattr.user.number": fmt.Sprint(i)}
		if err := w.WriteHeader(&header); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// compress makes a gzip file of members of size bytes, one where that is 0.
func compress(t testing.TB, data []byte, size int) []byte {
	t.Helper()
	if size == 0 {
		size = len(data)
	}
	var b bytes.Buffer
	for part := range slices.Chunk(data, size) {
		w := gzip.NewWriter(&b)
		if _, err := w.Write(part); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

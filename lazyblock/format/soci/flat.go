package soci

import (
	"encoding/binary"
	"fmt"

	"github.com/referee-cri/referee/internal/reason"
)

// flat is a FlatBuffers message (internals.md of flatbuffers): tables of fields that
// are found by relative offsets. Every access is checked. The first that leaves the
// buffer is kept in err; from then on everything is absent.
//
// Offsets may lead many times to one place, so that a small message could unfold into
// a huge one. Whatever is visited is charged to a budget of a few times its length.
type flat struct {
	b      []byte
	budget int
	err    error
}

// newFlat returns a message and its root table.
func newFlat(b []byte) (*flat, table) {
	f := &flat{b: b, budget: 4*len(b) + 4096}
	root := f.table(f.offset(0))
	return f, root
}

func (f *flat) fail(format string, args ...any) {
	if f.err == nil {
		f.err = reason.Errorf(reason.FormatCorrupt, "table of contents: %w", fmt.Errorf(format, args...))
	}
}

// bytes returns n bytes from at, nil where they are not all there.
func (f *flat) bytes(at, n int) []byte {
	if f.err != nil {
		return nil
	}
	if at < 0 || n < 0 || at > len(f.b) || n > len(f.b)-at {
		f.fail("%d bytes at %d of %d", n, at, len(f.b))
		return nil
	}
	if f.budget -= n; f.budget < 0 {
		f.fail("it leads to the same places again and again")
		return nil
	}
	return f.b[at : at+n]
}

func (f *flat) uint16(at int) int {
	p := f.bytes(at, 2)
	if p == nil {
		return 0
	}
	return int(binary.LittleEndian.Uint16(p))
}

func (f *flat) uint32(at int) uint32 {
	p := f.bytes(at, 4)
	if p == nil {
		return 0
	}
	return binary.LittleEndian.Uint32(p)
}

func (f *flat) int64(at int) int64 {
	p := f.bytes(at, 8)
	if p == nil {
		return 0
	}
	return int64(binary.LittleEndian.Uint64(p))
}

// offset follows the offset at a place.
func (f *flat) offset(at int) int { return at + int(f.uint32(at)) }

// table is a table in a message; the zero table has no fields.
type table struct {
	f      *flat
	at     int
	vtable int
	fields int // bytes of the vtable
	size   int // bytes of the table
}

// The head of a vtable: its own length and the table's.
const vtableHead = 4

// maxVtable is more than the tables here have fields for.
const maxVtable = 1024

func (f *flat) table(at int) table {
	vtable := at - int(int32(f.uint32(at)))
	t := table{f: f, at: at, vtable: vtable, fields: f.uint16(vtable), size: f.uint16(vtable + 2)}
	if f.err == nil && (t.fields < vtableHead || t.fields > maxVtable || t.fields%2 != 0) {
		f.fail("vtable of %d bytes", t.fields)
	}
	if f.err != nil {
		return table{f: f}
	}
	return t
}

// field returns where a field is, or 0 where it is absent. n is how many bytes of
// the table it has.
func (t table) field(id, n int) int {
	slot := vtableHead + 2*id
	if t.f.err != nil || slot+2 > t.fields {
		return 0
	}
	off := t.f.uint16(t.vtable + slot)
	if off == 0 {
		return 0
	}
	if off+n > t.size {
		t.f.fail("field %d of a table of %d bytes is at %d", id, t.size, off)
		return 0
	}
	return t.at + off
}

func (t table) int64(id int) int64 {
	if at := t.field(id, 8); at != 0 {
		return t.f.int64(at)
	}
	return 0
}

func (t table) uint32(id int) uint32 {
	if at := t.field(id, 4); at != 0 {
		return t.f.uint32(at)
	}
	return 0
}

func (t table) int8(id int, absent int8) int8 {
	at := t.field(id, 1)
	if at == 0 {
		return absent
	}
	p := t.f.bytes(at, 1)
	if p == nil {
		return absent
	}
	return int8(p[0])
}

// string returns a text field, which may hold any bytes.
func (t table) string(id int) string { return string(t.vector(id, 1).bytes()) }

// sub returns a field that is a table.
func (t table) sub(id int) table {
	at := t.field(id, 4)
	if at == 0 {
		return table{f: t.f}
	}
	return t.f.table(t.f.offset(at))
}

// vector is a field that is a vector of n elements of size bytes.
type vector struct {
	f       *flat
	at      int
	n, size int
}

func (t table) vector(id, size int) vector {
	at := t.field(id, 4)
	if at == 0 {
		return vector{f: t.f}
	}
	at = t.f.offset(at)
	n := int(t.f.uint32(at))
	if t.f.err == nil && n > (len(t.f.b)-at-4)/size {
		t.f.fail("vector of %d elements at %d of %d bytes", n, at, len(t.f.b))
	}
	if t.f.err != nil {
		return vector{f: t.f}
	}
	return vector{t.f, at + 4, n, size}
}

func (v vector) bytes() []byte { return v.f.bytes(v.at, v.n*v.size) }

// table returns element i of a vector of tables.
func (v vector) table(i int) table { return v.f.table(v.f.offset(v.at + 4*i)) }

// string returns element i of a vector of strings.
func (v vector) string(i int) string {
	at := v.f.offset(v.at + 4*i)
	return string(v.f.bytes(at+4, int(v.f.uint32(at))))
}

package ztoc

import (
	"fmt"
	"maps"
	"slices"

	flatbuffers "github.com/google/flatbuffers/go"
)

const (
	version = "0.9"
	// BuildTool is what SOCI's own tools call themselves unless told otherwise.
	BuildTool = "AWS SOCI CLI v0.2"
)

// maxZtoc bounds a ztoc, in bytes: the FlatBuffers library panics at 2 GiB.
const maxZtoc = 2<<30 - 64<<10

// encode spells the table: fields by their numbers in ztoc.fbs, in the order of
// SOCI's own writer.
func (t *table) encode() ([]byte, error) {
	if n := t.estimate(); n > maxZtoc {
		return nil, fmt.Errorf("%w: its table would be %d bytes, more than %d", ErrNotIndexed, n, maxZtoc)
	}
	b := flatbuffers.NewBuilder(0)
	ztocVersion, tool := b.CreateString(version), b.CreateString(BuildTool)
	toc := t.encodeContents(b)
	compression := t.encodeCompression(b)
	b.StartObject(6)
	b.PrependUOffsetTSlot(0, ztocVersion, 0)
	b.PrependUOffsetTSlot(1, tool, 0)
	b.PrependUOffsetTSlot(4, toc, 0)
	b.PrependInt64Slot(2, t.compressedSize, 0)
	b.PrependInt64Slot(3, t.plainSize, 0)
	b.PrependUOffsetTSlot(5, compression, 0)
	b.Finish(b.EndObject())
	return b.FinishedBytes(), nil
}

// estimate is more than the bytes of the ztoc.
func (t *table) estimate() int64 {
	const perFile, perRecord, perSpan = 256, 48, 96
	n := int64(len(t.checkpoints)) + int64(len(t.spans))*perSpan + 1024
	for i := range t.files {
		f := &t.files[i]
		n += perFile + int64(len(f.Name)+len(f.Linkname)+len(f.Uname)+len(f.Gname))
		for key, value := range f.PAXRecords {
			n += perRecord + int64(len(key)+len(value))
		}
	}
	return n
}

func (t *table) encodeContents(b *flatbuffers.Builder) flatbuffers.UOffsetT {
	files := make([]flatbuffers.UOffsetT, len(t.files))
	for i := range slices.Backward(files) { // the last first, as SOCI does
		files[i] = t.files[i].encode(b)
	}
	list := b.CreateVectorOfTables(files)
	b.StartObject(1)
	b.PrependUOffsetTSlot(0, list, 0)
	return b.EndObject()
}

func (f *file) encode(b *flatbuffers.Builder) flatbuffers.UOffsetT {
	name, kind, link := b.CreateString(f.Name), b.CreateString(f.kind), b.CreateString(f.Linkname)
	user, group, modTime := b.CreateString(f.Uname), b.CreateString(f.Gname), b.CreateByteString(f.modTime())
	records := encodeRecords(b, f.PAXRecords)
	b.StartObject(14)
	b.PrependUOffsetTSlot(0, name, 0)
	b.PrependUOffsetTSlot(1, kind, 0)
	b.PrependInt64Slot(2, f.at, 0)
	b.PrependInt64Slot(3, f.Size, 0)
	b.PrependUOffsetTSlot(4, link, 0)
	b.PrependInt64Slot(5, f.Mode, 0)
	b.PrependUint32Slot(6, uint32(f.Uid), 0)
	b.PrependUint32Slot(7, uint32(f.Gid), 0)
	b.PrependUOffsetTSlot(8, user, 0)
	b.PrependUOffsetTSlot(9, group, 0)
	b.PrependUOffsetTSlot(10, modTime, 0)
	b.PrependInt64Slot(11, f.Devmajor, 0)
	b.PrependInt64Slot(12, f.Devminor, 0)
	b.PrependUOffsetTSlot(13, records, 0)
	return b.EndObject()
}

// encodeRecords spells all PAX records of an entry, its attributes among them.
func encodeRecords(b *flatbuffers.Builder, records map[string]string) flatbuffers.UOffsetT {
	var list []flatbuffers.UOffsetT
	for _, key := range slices.Sorted(maps.Keys(records)) {
		k, v := b.CreateString(key), b.CreateString(records[key])
		b.StartObject(2)
		b.PrependUOffsetTSlot(0, k, 0)
		b.PrependUOffsetTSlot(1, v, 0)
		list = append(list, b.EndObject())
	}
	return b.CreateVectorOfTables(list)
}

func (t *table) encodeCompression(b *flatbuffers.Builder) flatbuffers.UOffsetT {
	checkpoints := b.CreateByteVector(t.checkpoints)
	digests := make([]flatbuffers.UOffsetT, 0, len(t.spans))
	for _, d := range t.spans {
		digests = append(digests, b.CreateString(d.String()))
	}
	list := b.CreateVectorOfTables(digests)
	b.StartObject(4)
	b.PrependInt32Slot(1, int32(len(t.spans)-1), 0) // the last span's number
	b.PrependUOffsetTSlot(2, list, 0)
	b.PrependUOffsetTSlot(3, checkpoints, 0)
	b.PrependInt8Slot(0, t.algorithm, algorithmGzip)
	return b.EndObject()
}

package soci

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"
	"testing"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/internal/treecmp"
	"github.com/referee-cri/referee/lazyblock"
	"github.com/referee-cri/referee/lazyblock/format/plainlayer"
)

// formOf is the form of one layer with its table.
func formOf(layer, table []byte) lazyblock.Form {
	blob := blobOf(layer, nil)
	form := lazyblock.Form{ID: "test", Layers: []lazyblock.FormBlob{blob}}
	if table != nil {
		form.Tables = []lazyblock.FormBlob{blobOf(table, map[string]string{annotationLayer: blob.Descriptor.Digest.String()})}
	}
	return form
}

func TestLayersOfEveryShape(t *testing.T) {
	t.Parallel()
	data := makeTar(t, 40, 20_000)
	want, err := treecmp.FromLayers(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	padded := append(bytes.Clone(data), make([]byte, 700_000)...)
	for name, layer := range map[string][]byte{
		"gzip":                        compress(t, data, 0),
		"gzip, members":               compress(t, data, 70_000),
		"gzip, zeros behind the tar":  compress(t, padded, 0),
		"gzip, members, zeros behind": compress(t, padded, 50_000),
		"uncompressed":                data,
		"uncompressed, zeros behind":  padded,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, span := range []int64{10_000, 100_000, 4 << 20} {
				expectTree(t, want, open(t, formOf(layer, tableOf(t, layer, span).encode())))
			}
			expectTree(t, want, open(t, formOf(layer, nil)))
		})
	}
}

func TestFirstZinfoVersionLeavesOutTheFirstCheckpoint(t *testing.T) {
	t.Parallel()
	data := makeTar(t, 40, 20_000)
	layer := compress(t, data, 0)
	table := tableOf(t, layer, 100_000)
	table.zinfo = slices.Delete(table.zinfo, zinfoHead, zinfoHead+zinfoRecord)
	want, err := treecmp.FromLayers(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	expectTree(t, want, open(t, formOf(layer, table.encode())))
}

func TestBrokenTablesAreRefused(t *testing.T) {
	t.Parallel()
	layer := compress(t, makeTar(t, 20, 20_000), 0)
	plain := makeTar(t, 3, 1000)
	point := func(f *forged, i int) []byte { return f.zinfo[zinfoHead+i*zinfoRecord:] }
	for name, tc := range map[string]struct {
		change func(f *forged)
		want   string
	}{
		"another layer's":          {func(f *forged) { f.compressed++ }, "the table is of a layer of"},
		"no size":                  {func(f *forged) { f.compressed = 0 }, "layer of 0 bytes"},
		"negative size":            {func(f *forged) { f.uncompressed = -1 }, "-1 uncompressed"},
		"a digest less":            {func(f *forged) { f.digests = f.digests[1:] }, "digests for the spans"},
		"a digest of another kind": {func(f *forged) { f.digests[1] = "md5:00" }, "span 1 has the digest"},
		"a digest that is none":    {func(f *forged) { f.digests[1] = "sha256:" + strings.Repeat("x", 64) }, "span 1 has the digest"},
		"another digest":           {func(f *forged) { f.digests[1] = "sha256:" + strings.Repeat("0", 64) }, "decode span 1"},
		"unknown compression":      {func(f *forged) { f.algorithm = 7 }, "compression algorithm 7"},
		"compressed in other ways": {func(f *forged) { f.algorithm = algorithmUncompressed }, "spans: "},
		"a bomb":                   {func(f *forged) { f.uncompressed += 1 << 40 }, "more than"},
		"no zinfo":                 {func(f *forged) { f.zinfo = nil }, "0 bytes, want at least 12"},
		"a checkpoint less":        {func(f *forged) { f.zinfo = f.zinfo[:len(f.zinfo)-2*zinfoRecord] }, "checkpoints in"},
		"more checkpoints":         {func(f *forged) { binary.LittleEndian.PutUint32(f.zinfo, 1000) }, "1000 checkpoints for"},
		"a checkpoint backwards":   {func(f *forged) { binary.LittleEndian.PutUint64(point(f, 1), 5) }, "checkpoints: "},
		"a checkpoint elsewhere":   {func(f *forged) { point(f, 1)[0] ^= 1 }, "decode span"},
		"many bits":                {func(f *forged) { point(f, 1)[16] = 9 }, "9 bits"},
		"a file of another type":   {func(f *forged) { f.files[1][fileType] = "socket" }, `type "socket"`},
		"a file beyond the end":    {func(f *forged) { f.files[1][fileOffset] = int64(1 << 40) }, "outside the content"},
		"a file without a time":    {func(f *forged) { f.files[1][fileModTime] = "yesterday" }, "time: "},
		"a device":                 {func(f *forged) { f.files[1][fileType], f.files[1][fileDevMajor] = "char", int64(-1) }, "device -1:0"},
		"a sparse file": {func(f *forged) {
			f.files[1][fileRecords] = []message{{recordKey: "GNU.sparse.map", recordValue: "0,1"}}
		}, "it is sparse"},
		"a link to nothing": {func(f *forged) { f.files[1][fileType] = "hardlink" }, "link"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			table := tableOf(t, layer, 50_000)
			tc.change(table)
			v, err := Open(t.Context(), formOf(layer, table.encode()), Options{})
			if err == nil {
				defer v.Close()
				_, err = v.Primary.ReadRange(t.Context(), make([]byte, v.Primary.Size()), 0)
			}
			if reason.Of(err) != reason.FormatCorrupt || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %s with %q", err, reason.FormatCorrupt, tc.want)
			}
		})
	}
	for name, tc := range map[string]struct {
		change func(f *forged)
		want   string
	}{
		"no span size":     {func(f *forged) { f.zinfo = message{tarVersion: uint32(2), tarSize: f.compressed}.encode() }, "spans of 0 bytes"},
		"another version":  {func(f *forged) { f.zinfo = message{tarVersion: uint32(3)}.encode() }, "version 3"},
		"a tar too long":   {func(f *forged) { f.uncompressed = f.compressed + 1 }, "of a tar of"},
		"a digest too few": {func(f *forged) { f.digests = f.digests[1:]; f.maxSpan-- }, "digests"},
		"another digest":   {func(f *forged) { f.digests[1] = "sha256:" + strings.Repeat("0", 64) }, "decode span 1"},
	} {
		t.Run("uncompressed, "+name, func(t *testing.T) {
			t.Parallel()
			table := tableOf(t, plain, 1024)
			tc.change(table)
			v, err := Open(t.Context(), formOf(plain, table.encode()), Options{})
			if err == nil {
				defer v.Close()
				_, err = v.Primary.ReadRange(t.Context(), make([]byte, v.Primary.Size()), 0)
			}
			if reason.Of(err) != reason.FormatCorrupt || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %s with %q", err, reason.FormatCorrupt, tc.want)
			}
		})
	}
}

// A small table may lead to one place many times.
func TestTablesThatUnfoldAreRefused(t *testing.T) {
	t.Parallel()
	layer := compress(t, makeTar(t, 1, 10), 0)
	record := message{recordKey: strings.Repeat("k", 4000), recordValue: strings.Repeat("v", 4000)}
	table := tableOf(t, layer, 50_000)
	table.files[0][fileRecords] = slices.Repeat([]*message{&record}, 100_000)
	_, err := Open(t.Context(), formOf(layer, table.encode()), Options{})
	if reason.Of(err) != reason.FormatCorrupt || !strings.Contains(err.Error(), "again and again") {
		t.Errorf("got %v", err)
	}
}

func TestLayersWithoutATableHaveBounds(t *testing.T) {
	t.Parallel()
	data := makeTar(t, 2, 1000)
	gz := compress(t, data, 0)
	sparse := bytes.Clone(data)
	for name, tc := range map[string]struct {
		layer []byte
		want  reason.Code
	}{
		"broken zstd":        {append([]byte{0x28, 0xb5, 0x2f, 0xfd}, data...), reason.FormatCorrupt},
		"broken gzip":        {append(bytes.Clone(gz[:len(gz)-9]), gz[len(gz)-8:]...), reason.FormatCorrupt},
		"a broken tar":       {append(bytes.Clone(data[:100]), data...), reason.FormatCorrupt},
		"nothing but zeros":  {make([]byte, 1024), reason.None},
		"no bytes":           {nil, reason.None},
		"ends within a file": {sparse[:2000], reason.FormatCorrupt},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v, err := Open(t.Context(), formOf(tc.layer, nil), Options{})
			if err == nil {
				err = v.Close()
			}
			if reason.Of(err) != tc.want {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
	t.Run("more than can be", func(t *testing.T) {
		t.Parallel()
		form := formOf(gz, nil)
		form.Layers[0].RangeReader = huge{form.Layers[0]}
		if _, err := Open(t.Context(), form, Options{}); reason.Of(err) != reason.NoMatch || !strings.Contains(err.Error(), "read to their end") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("other bytes than its digest's", func(t *testing.T) {
		t.Parallel()
		form := formOf(gz, nil)
		form.Layers[0].RangeReader = lazyblock.InMemory(compress(t, makeTar(t, 2, 999), 0))
		if _, err := Open(t.Context(), form, Options{}); reason.Of(err) != reason.DigestMismatch {
			t.Errorf("got %v", err)
		}
	})
}

// huge is a blob that says it is larger than it is.
type huge struct{ lazyblock.RangeReader }

func (huge) Size() int64 { return plainlayer.MaxStored + 1 }

func TestPrefetchArtifactsBecomeHints(t *testing.T) {
	t.Parallel()
	layer := compress(t, makeTar(t, 60, 20_000), 0)
	table := tableOf(t, layer, 100_000)
	points := len(table.digests)
	if points < 5 {
		t.Fatalf("only %d spans", points)
	}
	in := func(i int) int64 {
		c := table.zinfo[zinfoHead+i*zinfoRecord:]
		start := int64(binary.LittleEndian.Uint64(c))
		if c[16] != 0 {
			start--
		}
		return start
	}
	for name, tc := range map[string]struct {
		artifact string
		want     [][2]int // spans
	}{
		"ranges":            {`{"version":"1.0","prefetch_spans":[{"start_span":1,"end_span":2},{"start_span":0,"end_span":0}]}`, [][2]int{{1, 2}, {0, 0}}},
		"priorities":        {`{"version":"1.0","prefetch_spans":[{"start_span":3,"end_span":3,"priority":2},{"start_span":1,"end_span":1,"priority":1}]}`, [][2]int{{1, 1}, {3, 3}}},
		"another version":   {`{"version":"2.0","prefetch_spans":[{"start_span":1,"end_span":2}]}`, nil},
		"beyond the layer":  {`{"version":"1.0","prefetch_spans":[{"start_span":1,"end_span":2000}]}`, nil},
		"backwards":         {`{"version":"1.0","prefetch_spans":[{"start_span":3,"end_span":2}]}`, nil},
		"no JSON":           {`spans`, nil},
		"of another digest": {"", nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			form := formOf(layer, table.encode())
			artifact := blobOf([]byte(tc.artifact), form.Tables[0].Descriptor.Annotations)
			artifact.Descriptor.MediaType = mediaTypePrefetch
			if tc.artifact == "" {
				artifact.RangeReader = lazyblock.InMemory("{}")
			}
			form.Tables = append(form.Tables, artifact)
			v := open(t, form)
			var want []lazyblock.Hint
			for _, spans := range tc.want {
				want = append(want, lazyblock.Hint{Blob: 0, Off: in(spans[0]), Length: v.Hints[len(want)].Length})
				if end := want[len(want)-1].Off + want[len(want)-1].Length; end < in(spans[1]+1) || end > in(spans[1]+1)+1 {
					t.Errorf("spans %v end at %d, the next begins at %d", spans, end, in(spans[1]+1))
				}
			}
			if !slices.Equal(v.Hints, want) {
				t.Errorf("hints %v, want %v", v.Hints, want)
			}
		})
	}
}

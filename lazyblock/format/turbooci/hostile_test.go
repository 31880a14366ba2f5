package turbooci

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/internal/testdata"
	"github.com/referee-cri/referee/internal/treecmp"
	"github.com/referee-cri/referee/lazyblock"
	"github.com/referee-cri/referee/lazyblock/format/formattest"
	"github.com/referee-cri/referee/lazyblock/format/overlaybd"
)

// pack makes an archive of members, in the order of their names.
func pack(t testing.TB, members map[string][]byte) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for _, name := range slices.Sorted(maps.Keys(members)) {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o444, Size: int64(len(members[name]))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(members[name]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// formOf is a form of one archive over one layer.
func formOf(layer, archive []byte, annotations ...string) lazyblock.Form {
	blob := func(data []byte) lazyblock.FormBlob {
		return lazyblock.FormBlob{RangeReader: lazyblock.InMemory(data), Descriptor: ocispec.Descriptor{Digest: digest.FromBytes(data), Size: int64(len(data))}}
	}
	form := lazyblock.Form{ID: "test", Layers: []lazyblock.FormBlob{blob(layer)}, Tables: []lazyblock.FormBlob{blob(archive)}}
	target, kind := annotationsTarget[0], annotationsTargetType[0]
	if len(annotations) > 0 {
		target, kind = annotations[0], annotations[1]
	}
	form.Tables[0].Descriptor.Annotations = map[string]string{
		target: form.Layers[0].Descriptor.Digest.String(), kind: ocispec.MediaTypeImageLayerGzip,
	}
	return form
}

// stock are members and layers that overlaybd's own tools made.
func stock(t testing.TB, prefix, layer string) (members map[string][]byte, original []byte) {
	t.Helper()
	read := func(name string) []byte {
		data, err := os.ReadFile(filepath.Join(testdata.Dir(t, "overlaybd"), "generated-by-stock", "turbo", name))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	return map[string][]byte{memberExt4: read(prefix + memberExt4), memberGzip: read(prefix + memberGzip)}, read(layer)
}

// stockDiffers is what the writer changes in these layers besides.
var stockDiffers = append([]treecmp.Ignore{
	{Path: "/etc/conf", Field: treecmp.FieldMtime, Why: "the writer gives the inode the time that the header of its hard link has"},
	{Path: "/etc/hard", Field: treecmp.FieldMtime, Why: "a name of that inode"},
}, ext4Differs...)

func TestLayersOfStock(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ prefix, layer string }{{"", "layer.tgz"}, {"l2.", "l2.tgz"}} {
		t.Run(tc.layer, func(t *testing.T) {
			t.Parallel()
			members, layer := stock(t, tc.prefix, tc.layer)
			z, err := gzip.NewReader(bytes.NewReader(layer))
			if err != nil {
				t.Fatal(err)
			}
			want, err := treecmp.FromLayers(z)
			if err != nil {
				t.Fatal(err)
			}
			for _, spelling := range [][]string{
				{annotationsTarget[0], annotationsTargetType[0]}, {annotationsTarget[1], annotationsTargetType[1]},
			} {
				v := open(t, formOf(layer, pack(t, members), spelling...))
				expectTree(t, want, v, stockDiffers...)
			}
		})
	}
}

func TestUncompressedLayersNeedNoCheckpoints(t *testing.T) {
	t.Parallel()
	members, layer := stock(t, "", "layer.tgz")
	z, err := gzip.NewReader(bytes.NewReader(layer))
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	want, err := treecmp.FromLayers(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	delete(members, memberGzip)
	form := formOf(data, pack(t, members))
	form.Tables[0].Descriptor.Annotations[annotationsTargetType[0]] = ocispec.MediaTypeImageLayer
	expectTree(t, want, open(t, form), ext4Differs...)
}

// checked sets the CRC of a gzip.meta that was changed.
func checked(meta []byte) []byte {
	binary.LittleEndian.PutUint32(meta[metaCRC:], overlaybd.Checksum(meta[:metaCRC]))
	return meta
}

func TestBrokenArchivesAreRefused(t *testing.T) {
	t.Parallel()
	members, layer := stock(t, "l2.", "l2.tgz")
	meta := func(change func(meta []byte)) func(map[string][]byte) {
		return func(m map[string][]byte) {
			changed := bytes.Clone(m[memberGzip])
			change(changed)
			m[memberGzip] = checked(changed)
		}
	}
	put := func(off int, v uint64) func(map[string][]byte) {
		return meta(func(b []byte) { binary.LittleEndian.PutUint64(b[off:], v) })
	}
	for name, tc := range map[string]struct {
		change func(map[string][]byte)
		want   string
	}{
		"no metadata":                 {func(m map[string][]byte) { delete(m, memberExt4) }, "archive without"},
		"empty metadata":              {func(m map[string][]byte) { m[memberExt4] = nil }, "archive without"},
		"metadata of another kind":    {func(m map[string][]byte) { m[memberExt4] = []byte("no file system at all") }, "open layer 0"},
		"no checkpoints":              {func(m map[string][]byte) { delete(m, memberGzip) }, "no gzip.meta"},
		"checkpoints of another kind": {func(m map[string][]byte) { m[memberGzip] = []byte("none") }, "4 bytes that begin"},
		"a wrong CRC": {func(m map[string][]byte) {
			m[memberGzip] = append(bytes.Clone(m[memberGzip][:metaCRC]), make([]byte, 4)...)
		}, "has the CRC"},
		"another version":           {meta(func(b []byte) { b[8] = 2 }), "version 2"},
		"another compression":       {meta(func(b []byte) { b[10] = 9 }), "compression 9"},
		"another window":            {meta(func(b []byte) { b[18]++ }), "windows of"},
		"another file's":            {put(33, 12345), "it is of a file of 12345 bytes"},
		"another length":            {put(41, 12345), "a table of"},
		"a negative count":          {put(25, 1<<63), "checkpoints, want at most"},
		"too many":                  {put(25, 1<<30), "checkpoints, want at most"},
		"one more than there are":   {meta(func(b []byte) { b[25]++ }), "another length than their number"},
		"a table elsewhere":         {put(313, 1<<40), "a table of"},
		"a table before the header": {put(313, 5), "a table of"},
		"a longer layer":            {put(49, 1<<40), "more than"},
		"a shorter layer":           {put(49, 1000), "gzip.meta: "},
		"a table that is no zlib":   {meta(func(b []byte) { clear(b[binary.LittleEndian.Uint64(b[313:]):]) }), "table of checkpoints"},
		"a window that is no zlib":  {meta(func(b []byte) { clear(b[metaHeader : metaHeader+1000]); clear(b[1000:3000]) }), "window"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			changed := maps.Clone(members)
			tc.change(changed)
			v, err := Open(t.Context(), formOf(layer, pack(t, changed)), Options{})
			if err == nil {
				defer v.Close()
				err = readAll(t.Context(), v)
			}
			if reason.Of(err) != reason.FormatCorrupt || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %s with %q", err, reason.FormatCorrupt, tc.want)
			}
		})
	}
}

// readAll reads what a disk has stored.
func readAll(ctx context.Context, v lazyblock.Volume) error {
	disk, ok := v.Primary.(formattest.Sparse)
	if !ok {
		return nil
	}
	for off, n := range disk.Data() {
		if _, err := io.Copy(io.Discard, io.NewSectionReader(lazyblock.ReaderAt(ctx, disk), off, n)); err != nil {
			return err
		}
	}
	return nil
}

func TestArchivesHaveBounds(t *testing.T) {
	t.Parallel()
	many := map[string][]byte{}
	for _, name := range strings.Split("abcdefghijklmnopqrstuvwxyz", "") {
		many[name] = nil
	}
	bomb := bytes.Clone(pack(t, map[string][]byte{memberExt4: make([]byte, 100)}))
	for name, archive := range map[string][]byte{
		"many members":    pack(t, many),
		"not an archive":  []byte(strings.Repeat("no tar ", 1000)),
		"nothing":         {},
		"without its end": bomb[:len(bomb)/2],
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := parseArchive(t.Context(), archive); reason.Of(err) != reason.FormatCorrupt {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestFormsMustFitTheImage(t *testing.T) {
	t.Parallel()
	members, layer := stock(t, "", "layer.tgz")
	form := formOf(layer, pack(t, members))
	form.Tables[0].Descriptor.Annotations[annotationsTarget[0]] = digest.FromString("another").String()
	if _, err := Open(t.Context(), form, Options{}); reason.Of(err) != reason.LayerMismatch {
		t.Errorf("a target that the image has not: %v", err)
	}
	if _, err := Open(t.Context(), lazyblock.Form{ID: "test"}, Options{}); reason.Of(err) != reason.FormatCorrupt {
		t.Errorf("no layers: %v", err)
	}
}

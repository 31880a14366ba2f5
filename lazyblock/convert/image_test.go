package convert

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/content/memory"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/internal/treecmp"
	"github.com/referee-cri/referee/lazyblock/convert/source"
	"github.com/referee-cri/referee/lazyblock/erofs"
	"github.com/referee-cri/referee/lazyblock/format/overlaybd"
)

// testImage is an image to be stored, with all that can be wrong about it.
type testImage struct {
	tars     [][]byte
	types    []string // media types; "" and missing mean OCI tar+gzip
	pack     []func([]byte) []byte
	config   map[string]any
	diffIDs  []digest.Digest // instead of the right ones
	manifest string          // media type
	change   func(*ocispec.Manifest)
}

func gzipped(b []byte) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, _ = w.Write(b)
	_ = w.Close()
	return out.Bytes()
}

func zstded(b []byte) []byte {
	w, _ := zstd.NewWriter(nil)
	defer w.Close()
	return w.EncodeAll(b, nil)
}

func plain(b []byte) []byte { return b }

// store puts the image into memory.
func (img testImage) store(t testing.TB) (*memory.Store, ocispec.Descriptor) {
	t.Helper()
	store := memory.New()
	push := func(mediaType string, b []byte) ocispec.Descriptor {
		t.Helper()
		desc := content.NewDescriptorFromBytes(mediaType, b)
		if err := store.Push(t.Context(), desc, bytes.NewReader(b)); err != nil && !strings.Contains(err.Error(), "already exists") {
			t.Fatal(err)
		}
		return desc
	}
	manifest := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}}
	var diffIDs []digest.Digest
	for i, tarball := range img.tars {
		mediaType, pack := ocispec.MediaTypeImageLayerGzip, gzipped
		if i < len(img.types) && img.types[i] != "" {
			mediaType = img.types[i]
		}
		if i < len(img.pack) {
			pack = img.pack[i]
		}
		manifest.Layers = append(manifest.Layers, push(mediaType, pack(tarball)))
		diffIDs = append(diffIDs, digest.FromBytes(tarball))
	}
	if img.diffIDs != nil {
		diffIDs = img.diffIDs
	}
	config := map[string]any{"architecture": "amd64", "os": "linux", "rootfs": map[string]any{"type": "layers", "diff_ids": diffIDs}}
	for key, value := range img.config {
		config[key] = value
	}
	raw, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	manifest.Config = push(ocispec.MediaTypeImageConfig, raw)
	if img.change != nil {
		img.change(&manifest)
	}
	if raw, err = json.Marshal(manifest); err != nil {
		t.Fatal(err)
	}
	mediaType := img.manifest
	if mediaType == "" {
		mediaType = ocispec.MediaTypeImageManifest
	}
	return store, push(mediaType, raw)
}

func TestLayersOfAnyCompressionAndMediaType(t *testing.T) {
	t.Parallel()
	var tars [][]byte
	var readers []io.Reader
	for i := range 6 {
		tars = append(tars, makeTar(t, file(fmt.Sprint("file", i), strings.Repeat("content ", i*10000))))
		readers = append(readers, bytes.NewReader(tars[i]))
	}
	store, desc := testImage{
		tars:     tars,
		manifest: "application/vnd.docker.distribution.manifest.v2+json",
		types: []string{
			"application/vnd.docker.image.rootfs.diff.tar.gzip", "application/vnd.docker.image.rootfs.diff.tar",
			ocispec.MediaTypeImageLayerZstd, ocispec.MediaTypeImageLayer, ocispec.MediaTypeImageLayerGzip,
			"application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
		},
		pack: []func([]byte) []byte{
			gzipped, plain, zstded, gzipped, // the fourth is not what its media type says
			func(b []byte) []byte { return append(gzipped(b[:700]), gzipped(b[700:])...) },
			func(b []byte) []byte { return append([]byte("\x50\x2a\x4d\x18\x03\x00\x00\x00abc"), zstded(b)...) },
		},
	}.store(t)
	result, err := imageFrom(t.Context(), store, desc, Options{WorkDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	want, err := treecmp.FromLayers(readers...)
	if err != nil {
		t.Fatal(err)
	}
	image := mergedDisk(t, result.Layers)
	fsck(t, image)
	expectTree(t, want, mountFile(t, image))
}

func TestResultDescribesFilesAndConfig(t *testing.T) {
	t.Parallel()
	tars := [][]byte{makeTar(t, file("a", "1")), makeTar(t, file("b", "2"))}
	store, desc := testImage{tars: tars, config: map[string]any{
		"config": map[string]any{"Env": []string{"A=<&>"}}, "history": []any{map[string]any{"created_by": "x"}}, "vendor.field": 7,
	}}.store(t)
	var last source.Progress
	result, err := imageFrom(t.Context(), store, desc, Options{WorkDir: t.TempDir(), Algorithm: overlaybd.Zstd, BlockSize: 16384, Progress: func(p source.Progress) { last = p }})
	if err != nil {
		t.Fatal(err)
	}
	var digests []digest.Digest
	for i, layer := range result.Layers {
		blob, err := os.ReadFile(layer.Path)
		if err != nil {
			t.Fatal(err)
		}
		want := content.NewDescriptorFromBytes(ocispec.MediaTypeImageLayer, blob)
		want.Annotations = map[string]string{
			"containerd.io/snapshot/overlaybd/blob-digest": want.Digest.String(),
			"containerd.io/snapshot/overlaybd/blob-size":   fmt.Sprint(want.Size),
			"containerd.io/snapshot/overlaybd/version":     "0.1.0",
		}
		if diff := cmp.Diff(want, layer.Descriptor); diff != "" {
			t.Errorf("layer %d: %s", i, diff)
		}
		digests = append(digests, layer.Descriptor.Digest)
	}
	config := fmt.Sprintf(`{"architecture":"amd64","config":{"Env":["A=<&>"]},"history":[{"created_by":"x"}],"os":"linux",`+
		`"rootfs":{"diff_ids":["%s","%s"],"type":"layers"},"vendor.field":7}`, digests[0], digests[1])
	// The stored config escapes what HTML minds; kept fields are kept as they are.
	config = strings.Replace(config, "<&>", `\u003c\u0026\u003e`, 1)
	if diff := cmp.Diff(config, string(result.Config)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(desc, result.Source); diff != "" {
		t.Error(diff)
	}
	size := result.Layers[1].Descriptor.Size
	if last.Layer != 1 || last.Layers != 2 || last.Read != last.Size || last.Size == 0 || last.BlobSize != size || last.Written == 0 {
		t.Errorf("last progress %+v, blob of %d bytes", last, size)
	}
}

// hashes lists the digests of converted layers.
func hashes(layers []Layer) (all []digest.Digest) {
	for _, layer := range layers {
		all = append(all, layer.Descriptor.Digest)
	}
	return all
}

//nolint:paralleltest // it changes GOMAXPROCS
func TestSameImageSameBytes(t *testing.T) {
	store, desc := reference(t, "tiny")
	var want []digest.Digest
	for _, procs := range []int{1, 2, 5} {
		old := runtime.GOMAXPROCS(procs)
		result, err := imageFrom(t.Context(), store, desc, Options{WorkDir: t.TempDir()})
		runtime.GOMAXPROCS(old)
		if err != nil {
			t.Fatal(err)
		}
		if want == nil {
			want = hashes(result.Layers)
		}
		if diff := cmp.Diff(want, hashes(result.Layers)); diff != "" {
			t.Errorf("with %d processors: %s", procs, diff)
		}
	}
}

func TestImagesShareConvertedBaseLayers(t *testing.T) {
	t.Parallel()
	base := [][]byte{makeTar(t, file("a", "1"), dir("d")), makeTar(t, file("d/b", "2"), file(".wh.a", ""))}
	convert := func(top []byte, pack func([]byte) []byte) []digest.Digest {
		store, desc := testImage{tars: append(slices.Clone(base), top), pack: []func([]byte) []byte{pack, pack, pack}}.store(t)
		result, err := imageFrom(t.Context(), store, desc, Options{WorkDir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		return hashes(result.Layers)
	}
	one, two := convert(makeTar(t, file("x", "x")), gzipped), convert(makeTar(t, file("y", "y")), zstded)
	if one[0] != two[0] || one[1] != two[1] || one[2] == two[2] {
		t.Errorf("base layers differ or top layers do not: %v, %v", one, two)
	}
}

func TestWrongImagesAreRefused(t *testing.T) {
	t.Parallel()
	good := makeTar(t, file("a", "content"))
	random := digest.FromString("other")
	for name, tc := range map[string]struct {
		image testImage
		opts  Options
		want  reason.Code
		is    error
	}{
		"an index":                   {testImage{tars: [][]byte{good}, manifest: ocispec.MediaTypeImageIndex}, Options{}, reason.ArtifactInvalid, nil},
		"no layers":                  {testImage{}, Options{}, reason.ArtifactInvalid, nil},
		"more layers than diff IDs":  {testImage{tars: [][]byte{good}, diffIDs: []digest.Digest{}}, Options{}, reason.LayerMismatch, nil},
		"wrong diff ID":              {testImage{tars: [][]byte{good}, diffIDs: []digest.Digest{random}}, Options{}, reason.DigestMismatch, nil},
		"diff ID of nonsense":        {testImage{tars: [][]byte{good}, diffIDs: []digest.Digest{"nonsense"}}, Options{}, reason.ArtifactInvalid, nil},
		"diff ID of unknown hash":    {testImage{tars: [][]byte{good}, diffIDs: []digest.Digest{"md5:" + random[7:39]}}, Options{}, reason.ArtifactInvalid, nil},
		"unknown layer type":         {testImage{tars: [][]byte{good}, types: []string{"application/vnd.oci.image.layer.v1.tar+gzip+encrypted"}}, Options{}, reason.ArtifactInvalid, nil},
		"layer claimed to be empty":  {testImage{tars: [][]byte{good}, change: func(m *ocispec.Manifest) { m.Layers[0].Size = 0 }}, Options{}, reason.DigestMismatch, nil},
		"converted already":          {testImage{tars: [][]byte{good}, change: func(m *ocispec.Manifest) { m.Layers[0].Annotations = map[string]string{annotationBlobDigest: "x"} }}, Options{}, reason.ArtifactInvalid, nil},
		"too many layers":            {testImage{tars: slices.Repeat([][]byte{good}, 256)}, Options{}, reason.ArtifactInvalid, nil},
		"huge config":                {testImage{tars: [][]byte{good}, config: map[string]any{"x": strings.Repeat("x", 8<<20)}}, Options{}, reason.ArtifactInvalid, nil},
		"config without rootfs":      {testImage{tars: [][]byte{good}, config: map[string]any{"rootfs": nil}}, Options{}, reason.LayerMismatch, nil},
		"no tar at all":              {testImage{tars: [][]byte{bytes.Repeat([]byte("nonsense"), 300)}}, Options{}, reason.ArtifactInvalid, tar.ErrHeader},
		"half a tar":                 {testImage{tars: [][]byte{good[:515]}}, Options{}, reason.ArtifactInvalid, io.ErrUnexpectedEOF},
		"half a gzip":                {testImage{tars: [][]byte{good}, pack: []func([]byte) []byte{func(b []byte) []byte { return gzipped(b)[:100] }}}, Options{}, reason.ArtifactInvalid, io.ErrUnexpectedEOF},
		"garbage behind gzip":        {testImage{tars: [][]byte{good}, pack: []func([]byte) []byte{func(b []byte) []byte { return append(gzipped(b), "garbage behind it"...) }}}, Options{}, reason.ArtifactInvalid, gzip.ErrHeader},
		"half a zstd":                {testImage{tars: [][]byte{good}, pack: []func([]byte) []byte{func(b []byte) []byte { return zstded(b)[:40] }}}, Options{}, reason.ArtifactInvalid, io.ErrUnexpectedEOF},
		"bomb":                       {testImage{tars: [][]byte{append(slices.Clone(good), make([]byte, 4<<20)...)}}, Options{MaxSize: 1 << 20}, reason.ArtifactInvalid, source.ErrTooLarge},
		"too many entries":           {testImage{tars: [][]byte{good, good, good}}, Options{Limits: erofs.Limits{Entries: 2}}, reason.ArtifactInvalid, erofs.ErrInvalid},
		"content behind the disk":    {testImage{tars: [][]byte{sparseTar(t, 80<<30)}}, Options{MaxSize: 64 << 30}, reason.ArtifactInvalid, erofs.ErrDiskFull},
		"layer smaller than claimed": {testImage{tars: [][]byte{good}, change: func(m *ocispec.Manifest) { m.Layers[0].Size++ }}, Options{}, reason.RegistryError, io.ErrUnexpectedEOF},
		"layer larger than claimed":  {testImage{tars: [][]byte{good}, change: func(m *ocispec.Manifest) { m.Layers[0].Size-- }}, Options{}, reason.ArtifactInvalid, io.ErrUnexpectedEOF},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store, desc := tc.image.store(t)
			// The memory store would notice sizes itself: a registry need not.
			var src content.Fetcher = content.FetcherFunc(func(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
				return store.Fetch(ctx, d)
			})
			if strings.Contains(name, "claimed") {
				src = servesAnything(t, tc.image, store)
			}
			work := t.TempDir()
			tc.opts.WorkDir = work
			result, err := imageFrom(t.Context(), src, desc, tc.opts)
			if err == nil {
				t.Fatalf("converted to %+v", result)
			}
			if got := reason.Of(err); got != tc.want {
				t.Errorf("code %q, want %q: %v", got, tc.want, err)
			}
			if tc.is != nil && !errors.Is(err, tc.is) {
				t.Errorf("error does not wrap %v: %v", tc.is, err)
			}
			if left, err := os.ReadDir(work); err != nil || len(left) > 0 {
				t.Errorf("files left behind: %v, %v", left, err)
			}
		})
	}
}

// servesAnything fetches layers without regard to the size asked for.
func servesAnything(t *testing.T, img testImage, store *memory.Store) content.Fetcher {
	t.Helper()
	blob := gzipped(img.tars[0])
	return content.FetcherFunc(func(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
		if d.Digest == digest.FromBytes(blob) {
			return io.NopCloser(bytes.NewReader(blob)), nil
		}
		return store.Fetch(ctx, d)
	})
}

// sparseTar is a tar with one file that is all hole, in PAX format 1.0.
func sparseTar(t testing.TB, size int64) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	sparseMap := make([]byte, 512)
	copy(sparseMap, fmt.Sprintf("1\n%d\n0\n", size))
	records := map[string]string{"major": "1", "minor": "0", "name": "hole", "realsize": fmt.Sprint(size)}
	body := ""
	for _, key := range []string{"major", "minor", "name", "realsize"} {
		record := fmt.Sprintf(" GNU.sparse.%s=%s\n", key, records[key])
		n := len(record)
		for n != len(fmt.Sprint(n))+len(record) {
			n++
		}
		body += fmt.Sprint(n) + record
	}
	// archive/tar refuses to write GNU.sparse records, so the header is made by hand.
	write := func(header *tar.Header, content []byte) {
		t.Helper()
		if err := w.WriteHeader(header); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(content); err != nil {
			t.Fatal(err)
		}
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	write(&tar.Header{Typeflag: tar.TypeReg, Name: "pax", Size: int64(len(body)), Format: tar.FormatUSTAR}, []byte(body))
	write(&tar.Header{Typeflag: tar.TypeReg, Name: "hole", Mode: 0o644, Size: 512, Format: tar.FormatUSTAR}, sparseMap)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	raw := b.Bytes()
	raw[156] = tar.TypeXHeader
	sum := 0
	copy(raw[148:156], "        ")
	for _, c := range raw[:512] {
		sum += int(c)
	}
	copy(raw[148:156], fmt.Sprintf("%06o\x00 ", sum))
	return raw
}

func TestDiskGrowsOnlyWhenALayerNeedsIt(t *testing.T) {
	t.Parallel()
	tars := [][]byte{makeTar(t, file("a", strings.Repeat("a", 30_000))), makeTar(t, file("b", strings.Repeat("b", 90_000))), makeTar(t, file("c", "c"))}
	store, desc := testImage{tars: tars}.store(t)
	image, err := source.Read(t.Context(), store, desc)
	if err != nil {
		t.Fatal(err)
	}
	// The second layer's data fits 32 blocks together with the first's, its
	// metadata does not: the disk must not take the layer twice.
	for _, size := range []int64{10 << blockBits, 32 << blockBits, 33 << blockBits, 34 << blockBits} {
		c := &converter{image: image, opts: Options{WorkDir: t.TempDir(), MaxSize: 1 << 20}, disk: newDisk(erofs.Limits{}), size: size}
		var layers []Layer
		for i := range tars {
			layer, err := c.layer(t.Context(), i)
			if err != nil {
				t.Fatal(err)
			}
			layers = append(layers, layer)
		}
		want, err := treecmp.FromLayers(bytes.NewReader(tars[0]), bytes.NewReader(tars[1]), bytes.NewReader(tars[2]))
		if err != nil {
			t.Fatal(err)
		}
		merged := mergedDisk(t, layers)
		fsck(t, merged)
		expectTree(t, want, mountFile(t, merged))
	}
}

func TestCancelEndsAConversion(t *testing.T) {
	t.Parallel()
	store, desc := testImage{tars: [][]byte{makeTar(t, file("a", strings.Repeat("a", 1<<20)))}}.store(t)
	ctx, cancel := context.WithCancel(t.Context())
	work := t.TempDir()
	stuck := content.FetcherFunc(func(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
		if d.MediaType != ocispec.MediaTypeImageLayerGzip {
			return store.Fetch(ctx, d)
		}
		in, out := io.Pipe()
		context.AfterFunc(ctx, func() { out.CloseWithError(ctx.Err()) })
		cancel() // nothing will ever come
		return in, nil
	})
	if _, err := imageFrom(ctx, stuck, desc, Options{WorkDir: work}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if left, err := os.ReadDir(work); err != nil || len(left) > 0 {
		t.Errorf("files left behind: %v, %v", left, err)
	}
}

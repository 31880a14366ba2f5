package convert

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/content/memory"

	"github.com/referee-cri/referee/internal/fsimage"
	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/internal/treecmp"
	"github.com/referee-cri/referee/lazyblock/convert/imagetest"
	"github.com/referee-cri/referee/lazyblock/convert/source"
	"github.com/referee-cri/referee/lazyblock/erofs"
	"github.com/referee-cri/referee/lazyblock/format/overlaybd"
)

func TestLayersOfAnyCompressionAndMediaType(t *testing.T) {
	t.Parallel()
	var tars [][]byte
	var readers []io.Reader
	for i := range 6 {
		tars = append(tars, imagetest.Tar(t, imagetest.File(fmt.Sprint("file", i), strings.Repeat("content ", i*10000))))
		readers = append(readers, bytes.NewReader(tars[i]))
	}
	store, desc := imagetest.Image{
		Tars:     tars,
		Manifest: "application/vnd.docker.distribution.manifest.v2+json",
		Types: []string{
			"application/vnd.docker.image.rootfs.diff.tar.gzip", "application/vnd.docker.image.rootfs.diff.tar",
			ocispec.MediaTypeImageLayerZstd, ocispec.MediaTypeImageLayer, ocispec.MediaTypeImageLayerGzip,
			"application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
		},
		Pack: []func([]byte) []byte{
			imagetest.Gzip, imagetest.Plain, imagetest.Zstd, imagetest.Gzip, // the fourth is not what its media type says
			func(b []byte) []byte { return append(imagetest.Gzip(b[:700]), imagetest.Gzip(b[700:])...) },
			func(b []byte) []byte {
				return append([]byte("\x50\x2a\x4d\x18\x03\x00\x00\x00abc"), imagetest.Zstd(b)...)
			},
		},
	}.Store(t)
	result, err := imageFrom(t.Context(), store, desc, Options{WorkDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	want, err := treecmp.FromLayers(readers...)
	if err != nil {
		t.Fatal(err)
	}
	image := mergedDisk(t, result.Layers)
	fsimage.CheckEROFS(t, image)
	treecmp.ExpectAt(t, want, fsimage.MountFile(t, image))
}

func TestResultDescribesFilesAndConfig(t *testing.T) {
	t.Parallel()
	tars := [][]byte{imagetest.Tar(t, imagetest.File("a", "1")), imagetest.Tar(t, imagetest.File("b", "2"))}
	store, desc := imagetest.Image{Tars: tars, Config: map[string]any{
		"config": map[string]any{"Env": []string{"A=<&>"}}, "history": []any{map[string]any{"created_by": "x"}}, "vendor.field": 7,
	}}.Store(t)
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
	store, desc := imagetest.Reference(t, "tiny")
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
	base := [][]byte{imagetest.Tar(t, imagetest.File("a", "1"), imagetest.Dir("d")), imagetest.Tar(t, imagetest.File("d/b", "2"), imagetest.File(".wh.a", ""))}
	convert := func(top []byte, pack func([]byte) []byte) []digest.Digest {
		store, desc := imagetest.Image{Tars: append(slices.Clone(base), top), Pack: []func([]byte) []byte{pack, pack, pack}}.Store(t)
		result, err := imageFrom(t.Context(), store, desc, Options{WorkDir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		return hashes(result.Layers)
	}
	one, two := convert(imagetest.Tar(t, imagetest.File("x", "x")), imagetest.Gzip), convert(imagetest.Tar(t, imagetest.File("y", "y")), imagetest.Zstd)
	if one[0] != two[0] || one[1] != two[1] || one[2] == two[2] {
		t.Errorf("base layers differ or top layers do not: %v, %v", one, two)
	}
}

func TestWrongImagesAreRefused(t *testing.T) {
	t.Parallel()
	good := imagetest.Tar(t, imagetest.File("a", "content"))
	random := digest.FromString("other")
	for name, tc := range map[string]struct {
		image imagetest.Image
		opts  Options
		want  reason.Code
		is    error
	}{
		"an index":                   {imagetest.Image{Tars: [][]byte{good}, Manifest: ocispec.MediaTypeImageIndex}, Options{}, reason.ArtifactInvalid, nil},
		"no layers":                  {imagetest.Image{}, Options{}, reason.ArtifactInvalid, nil},
		"more layers than diff IDs":  {imagetest.Image{Tars: [][]byte{good}, DiffIDs: []digest.Digest{}}, Options{}, reason.LayerMismatch, nil},
		"wrong diff ID":              {imagetest.Image{Tars: [][]byte{good}, DiffIDs: []digest.Digest{random}}, Options{}, reason.DigestMismatch, nil},
		"diff ID of nonsense":        {imagetest.Image{Tars: [][]byte{good}, DiffIDs: []digest.Digest{"nonsense"}}, Options{}, reason.ArtifactInvalid, nil},
		"diff ID of unknown hash":    {imagetest.Image{Tars: [][]byte{good}, DiffIDs: []digest.Digest{"md5:" + random[7:39]}}, Options{}, reason.ArtifactInvalid, nil},
		"unknown layer type":         {imagetest.Image{Tars: [][]byte{good}, Types: []string{"application/vnd.oci.image.layer.v1.tar+gzip+encrypted"}}, Options{}, reason.ArtifactInvalid, nil},
		"layer claimed to be empty":  {imagetest.Image{Tars: [][]byte{good}, Change: func(m *ocispec.Manifest) { m.Layers[0].Size = 0 }}, Options{}, reason.DigestMismatch, nil},
		"converted already":          {imagetest.Image{Tars: [][]byte{good}, Change: func(m *ocispec.Manifest) { m.Layers[0].Annotations = map[string]string{annotationBlobDigest: "x"} }}, Options{}, reason.ArtifactInvalid, nil},
		"too many layers":            {imagetest.Image{Tars: slices.Repeat([][]byte{good}, 256)}, Options{}, reason.ArtifactInvalid, nil},
		"huge config":                {imagetest.Image{Tars: [][]byte{good}, Config: map[string]any{"x": strings.Repeat("x", 8<<20)}}, Options{}, reason.ArtifactInvalid, nil},
		"config without rootfs":      {imagetest.Image{Tars: [][]byte{good}, Config: map[string]any{"rootfs": nil}}, Options{}, reason.LayerMismatch, nil},
		"no tar at all":              {imagetest.Image{Tars: [][]byte{bytes.Repeat([]byte("nonsense"), 300)}}, Options{}, reason.ArtifactInvalid, tar.ErrHeader},
		"half a tar":                 {imagetest.Image{Tars: [][]byte{good[:515]}}, Options{}, reason.ArtifactInvalid, io.ErrUnexpectedEOF},
		"half a gzip":                {imagetest.Image{Tars: [][]byte{good}, Pack: []func([]byte) []byte{func(b []byte) []byte { return imagetest.Gzip(b)[:100] }}}, Options{}, reason.ArtifactInvalid, io.ErrUnexpectedEOF},
		"garbage behind gzip":        {imagetest.Image{Tars: [][]byte{good}, Pack: []func([]byte) []byte{func(b []byte) []byte { return append(imagetest.Gzip(b), "garbage behind it"...) }}}, Options{}, reason.ArtifactInvalid, gzip.ErrHeader},
		"half a zstd":                {imagetest.Image{Tars: [][]byte{good}, Pack: []func([]byte) []byte{func(b []byte) []byte { return imagetest.Zstd(b)[:40] }}}, Options{}, reason.ArtifactInvalid, io.ErrUnexpectedEOF},
		"bomb":                       {imagetest.Image{Tars: [][]byte{append(slices.Clone(good), make([]byte, 4<<20)...)}}, Options{MaxSize: 1 << 20}, reason.ArtifactInvalid, source.ErrTooLarge},
		"too many entries":           {imagetest.Image{Tars: [][]byte{good, good, good}}, Options{Limits: erofs.Limits{Entries: 2}}, reason.ArtifactInvalid, erofs.ErrInvalid},
		"content behind the disk":    {imagetest.Image{Tars: [][]byte{imagetest.SparseTar(t, 80<<30)}}, Options{MaxSize: 64 << 30}, reason.ArtifactInvalid, erofs.ErrDiskFull},
		"layer smaller than claimed": {imagetest.Image{Tars: [][]byte{good}, Change: func(m *ocispec.Manifest) { m.Layers[0].Size++ }}, Options{}, reason.RegistryError, io.ErrUnexpectedEOF},
		"layer larger than claimed":  {imagetest.Image{Tars: [][]byte{good}, Change: func(m *ocispec.Manifest) { m.Layers[0].Size-- }}, Options{}, reason.ArtifactInvalid, io.ErrUnexpectedEOF},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store, desc := tc.image.Store(t)
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
			imagetest.ExpectRefused(t, err, tc.want, tc.is, work)
		})
	}
}

// servesAnything fetches layers without regard to the size asked for.
func servesAnything(t *testing.T, img imagetest.Image, store *memory.Store) content.Fetcher {
	t.Helper()
	blob := imagetest.Gzip(img.Tars[0])
	return content.FetcherFunc(func(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
		if d.Digest == digest.FromBytes(blob) {
			return io.NopCloser(bytes.NewReader(blob)), nil
		}
		return store.Fetch(ctx, d)
	})
}

func TestDiskGrowsOnlyWhenALayerNeedsIt(t *testing.T) {
	t.Parallel()
	tars := [][]byte{imagetest.Tar(t, imagetest.File("a", strings.Repeat("a", 30_000))), imagetest.Tar(t, imagetest.File("b", strings.Repeat("b", 90_000))), imagetest.Tar(t, imagetest.File("c", "c"))}
	store, desc := imagetest.Image{Tars: tars}.Store(t)
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
		fsimage.CheckEROFS(t, merged)
		treecmp.ExpectAt(t, want, fsimage.MountFile(t, merged))
	}
}

func TestCancelEndsAConversion(t *testing.T) {
	t.Parallel()
	store, desc := imagetest.Image{Tars: [][]byte{imagetest.Tar(t, imagetest.File("a", strings.Repeat("a", 1<<20)))}}.Store(t)
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

package stargz_test

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

	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/containerd/stargz-snapshotter/estargz/zstdchunked"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"

	"github.com/referee-cri/referee/internal/layerstream"
	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/internal/treecmp"
	"github.com/referee-cri/referee/lazyblock/convert/imagetest"
	"github.com/referee-cri/referee/lazyblock/convert/source"
	"github.com/referee-cri/referee/lazyblock/convert/stargz"
)

var formats = []stargz.Format{stargz.EStargz, stargz.ZstdChunked}

// convert reads and converts an image.
func convert(ctx context.Context, fetcher content.Fetcher, desc ocispec.Descriptor, opts stargz.Options) (*stargz.Result, error) {
	image, err := source.Read(ctx, fetcher, desc)
	if err != nil {
		return nil, err
	}
	return stargz.Image(ctx, image, opts)
}

// plain is a layer's tar.
func plain(t *testing.T, r io.Reader) []byte {
	t.Helper()
	stream, err := layerstream.Decompress(r)
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	b, err := io.ReadAll(stream)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// open opens a layer as the formats' own snapshotter does: the table of contents
// must be the one that the manifest's annotation names.
func open(t *testing.T, layer stargz.Layer) (*estargz.Reader, estargz.TOCEntryVerifier) {
	t.Helper()
	blob, err := os.ReadFile(layer.Path)
	if err != nil {
		t.Fatal(err)
	}
	if got := digest.FromBytes(blob); got != layer.Descriptor.Digest || int64(len(blob)) != layer.Descriptor.Size {
		t.Fatalf("blob is %s of %d bytes, described as %+v", got, len(blob), layer.Descriptor)
	}
	r, err := estargz.Open(io.NewSectionReader(bytes.NewReader(blob), 0, int64(len(blob))), estargz.WithDecompressors(&zstdchunked.Decompressor{}))
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := r.VerifyTOC(digest.Digest(layer.Descriptor.Annotations[estargz.TOCJSONDigestAnnotation]))
	if err != nil {
		t.Fatal(err)
	}
	return r, verifier
}

// TestEveryChunkStandsAlone reads each chunk of each file of the reference image
// through the formats' own library, and compares it with the file in the tar.
func TestEveryChunkStandsAlone(t *testing.T) {
	t.Parallel()
	store, desc := imagetest.Reference(t, "tiny")
	for _, format := range formats {
		t.Run(format.String(), func(t *testing.T) {
			t.Parallel()
			result, err := convert(t.Context(), store, desc, stargz.Options{WorkDir: t.TempDir(), Format: format, ChunkSize: 256 << 10})
			if err != nil {
				t.Fatal(err)
			}
			image, err := source.Read(t.Context(), store, desc)
			if err != nil {
				t.Fatal(err)
			}
			var before, after []io.Reader
			for i, layer := range result.Layers {
				original, err := content.FetchAll(t.Context(), store, image.Manifest.Layers[i])
				if err != nil {
					t.Fatal(err)
				}
				f, err := os.Open(layer.Path)
				if err != nil {
					t.Fatal(err)
				}
				tarball := plain(t, f)
				f.Close()
				if digest.FromBytes(tarball) != layer.DiffID {
					t.Errorf("layer %d: diff ID %s is not that of its plain bytes", i, layer.DiffID)
				}
				checkChunks(t, layer, tarball)
				before, after = append(before, bytes.NewReader(plain(t, bytes.NewReader(original)))), append(after, bytes.NewReader(tarball))
			}
			want, err := treecmp.FromLayers(before...)
			if err != nil {
				t.Fatal(err)
			}
			got, err := treecmp.FromLayers(after...)
			if err != nil {
				t.Fatal(err)
			}
			for _, added := range []string{"/" + estargz.NoPrefetchLandmark, "/" + estargz.TOCTarName} {
				delete(got, added)
			}
			for _, d := range treecmp.Diff(want, got) {
				t.Error(d)
			}
		})
	}
}

// checkChunks compares what chunks hold with what the tar does.
func checkChunks(t *testing.T, layer stargz.Layer, tarball []byte) {
	t.Helper()
	r, verifier := open(t, layer)
	tr := tar.NewReader(bytes.NewReader(tarball))
	for {
		header, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if header.Typeflag != tar.TypeReg || header.Name == estargz.TOCTarName {
			continue
		}
		want, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimPrefix(header.Name, "./")
		var got []byte
		for int64(len(got)) < header.Size {
			chunk, ok := r.ChunkEntryForOffset(name, int64(len(got)))
			if !ok {
				t.Fatalf("%s: no chunk at %d", name, len(got))
			}
			v, err := verifier.Verifier(chunk)
			if err != nil {
				t.Fatal(err)
			}
			section, err := r.OpenFile(name)
			if err != nil {
				t.Fatal(err)
			}
			part := make([]byte, chunk.ChunkSize)
			if _, err := section.ReadAt(part, int64(len(got))); err != nil {
				t.Fatalf("%s: read chunk at %d: %v", name, len(got), err)
			}
			if _, err := v.Write(part); err != nil || !v.Verified() {
				t.Fatalf("%s: chunk at %d is not what its digest says", name, len(got))
			}
			got = append(got, part...)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s: chunks hold other bytes than the tar", name)
		}
	}
}

func TestPrioritizedFilesStandFirst(t *testing.T) {
	t.Parallel()
	tars := [][]byte{
		imagetest.Tar(t, imagetest.Dir("etc"), imagetest.File("etc/unused", "u"), imagetest.File("etc/config", "c")),
		imagetest.Tar(t, imagetest.File("unused", "u"), imagetest.Dir("bin"), imagetest.File("bin/tool", "t"), imagetest.Hardlink("bin/app", "bin/tool")),
	}
	for _, format := range formats {
		t.Run(format.String(), func(t *testing.T) {
			t.Parallel()
			store, desc := imagetest.Image{Tars: tars}.Store(t)
			result, err := convert(t.Context(), store, desc, stargz.Options{
				WorkDir: t.TempDir(), Format: format, Prioritized: []string{"/bin/app", "/etc/config", "/nowhere"},
			})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]string{"/nowhere"}, result.Missed); diff != "" {
				t.Errorf("missed (-want +got):\n%s", diff)
			}
			for i, want := range [][]string{
				{"etc/", "etc/config", estargz.PrefetchLandmark, "etc/unused"},
				{"bin/", "bin/tool", "bin/app", estargz.PrefetchLandmark, "unused"},
			} {
				f, err := os.ReadFile(result.Layers[i].Path)
				if err != nil {
					t.Fatal(err)
				}
				var names []string
				for tr := tar.NewReader(bytes.NewReader(plain(t, bytes.NewReader(f)))); ; {
					header, err := tr.Next()
					if errors.Is(err, io.EOF) {
						break
					}
					if err != nil {
						t.Fatal(err)
					}
					if header.Name != estargz.TOCTarName {
						names = append(names, strings.TrimSuffix(header.Name, "/")+strings.Repeat("/", strings.Count(string(header.Typeflag), "5")))
					}
				}
				if diff := cmp.Diff(want, names); diff != "" {
					t.Errorf("layer %d (-want +got):\n%s", i, diff)
				}
			}
		})
	}
}

// TestBytesDoNotDependOnTheMachine converts with one processor and with many.
//
//nolint:paralleltest // changes the number of processors for the whole process
func TestBytesDoNotDependOnTheMachine(t *testing.T) {
	var entries []imagetest.Entry
	for i := range 25 {
		entries = append(entries, imagetest.File(fmt.Sprint("file", i), strings.Repeat(fmt.Sprint(i, " of many "), 1000*i)))
	}
	store, desc := imagetest.Image{Tars: [][]byte{imagetest.Tar(t, entries...)}}.Store(t)
	for _, format := range formats {
		var made []digest.Digest
		for _, processors := range []int{1, 2, 7} {
			before := runtime.GOMAXPROCS(processors)
			result, err := convert(t.Context(), store, desc, stargz.Options{WorkDir: t.TempDir(), Format: format, ChunkSize: 64 << 10})
			runtime.GOMAXPROCS(before)
			if err != nil {
				t.Fatal(err)
			}
			made = append(made, result.Layers[0].Descriptor.Digest)
		}
		if len(slices.Compact(made)) != 1 {
			t.Errorf("%s: %v", format, made)
		}
	}
}

func TestOddTarsAreSpelledPlainly(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeXGlobalHeader, Name: "pax_global_header", PAXRecords: map[string]string{"comment": "of git"}}); err != nil {
		t.Fatal(err)
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	tars := [][]byte{append(b.Bytes(), imagetest.SparseTar(t, 1<<20)...)}
	for _, format := range formats {
		t.Run(format.String(), func(t *testing.T) {
			t.Parallel()
			store, desc := imagetest.Image{Tars: tars}.Store(t)
			result, err := convert(t.Context(), store, desc, stargz.Options{WorkDir: t.TempDir(), Format: format})
			if err != nil {
				t.Fatal(err)
			}
			r, _ := open(t, result.Layers[0])
			hole, err := r.OpenFile("hole")
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(hole)
			if err != nil || !bytes.Equal(got, make([]byte, 1<<20)) {
				t.Errorf("the hole reads as %d bytes, %v", len(got), err)
			}
		})
	}
}

// TestLinksThatLeadToEachOtherEndNoProcess: the library follows them without end.
func TestLinksThatLeadToEachOtherEndNoProcess(t *testing.T) {
	t.Parallel()
	var chain []imagetest.Entry
	for i := range 10_000 {
		chain = append(chain, imagetest.Hardlink(fmt.Sprint("link", i+1), fmt.Sprint("link", i)))
	}
	for name, tc := range map[string]struct {
		entries []imagetest.Entry
		first   string
		want    reason.Code
	}{
		"to each other":      {[]imagetest.Entry{imagetest.Hardlink("a", "b"), imagetest.Hardlink("b", "a")}, "/a", reason.ArtifactInvalid},
		"into itself":        {[]imagetest.Entry{imagetest.Hardlink("a", "a/b")}, "a/b", reason.ArtifactInvalid},
		"through a replaced": {[]imagetest.Entry{imagetest.File("a", "a"), imagetest.Hardlink("b", "a"), imagetest.Hardlink("a", "b")}, "./b", reason.ArtifactInvalid},
		"a long row":         {chain, "link10000", reason.ArtifactInvalid},
		"a short row":        {chain[:100], "link100", reason.None},
		"no longer":          {[]imagetest.Entry{imagetest.Hardlink("a", "b"), imagetest.Hardlink("b", "a"), imagetest.File("a", "a")}, "b", reason.None},
		"not to be moved":    {[]imagetest.Entry{imagetest.Hardlink("a", "b"), imagetest.Hardlink("b", "a"), imagetest.File("c", "c")}, "c", reason.None},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store, desc := imagetest.Image{Tars: [][]byte{imagetest.Tar(t, tc.entries...)}}.Store(t)
			if _, err := convert(t.Context(), store, desc, stargz.Options{WorkDir: t.TempDir(), Prioritized: []string{tc.first}}); reason.Of(err) != tc.want {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

func TestWrongImagesAreRefused(t *testing.T) {
	t.Parallel()
	good := imagetest.Tar(t, imagetest.File("a", "content"))
	for name, tc := range map[string]struct {
		image imagetest.Image
		want  reason.Code
		is    error
	}{
		"wrong diff ID": {imagetest.Image{Tars: [][]byte{good}, DiffIDs: []digest.Digest{digest.FromString("other")}}, reason.DigestMismatch, nil},
		"no tar at all": {imagetest.Image{Tars: [][]byte{bytes.Repeat([]byte("nonsense"), 300)}}, reason.ArtifactInvalid, tar.ErrHeader},
		"half a tar":    {imagetest.Image{Tars: [][]byte{good[:515]}}, reason.ArtifactInvalid, io.ErrUnexpectedEOF},
		"half a gzip": {
			imagetest.Image{Tars: [][]byte{good}, Pack: []func([]byte) []byte{func(b []byte) []byte { return imagetest.Gzip(b)[:100] }}},
			reason.ArtifactInvalid, io.ErrUnexpectedEOF,
		},
		"garbage behind gzip": {
			imagetest.Image{Tars: [][]byte{good}, Pack: []func([]byte) []byte{func(b []byte) []byte { return append(imagetest.Gzip(b), "garbage behind"...) }}},
			reason.ArtifactInvalid, gzip.ErrHeader,
		},
		"bomb of zeros": {imagetest.Image{Tars: [][]byte{append(slices.Clone(good), make([]byte, 4<<20)...)}}, reason.ArtifactInvalid, source.ErrTooLarge},
		"bomb of holes": {imagetest.Image{Tars: [][]byte{imagetest.SparseTar(t, 80<<30)}}, reason.ArtifactInvalid, source.ErrTooLarge},
		"entry of a type of its own": {imagetest.Image{Tars: [][]byte{imagetest.Tar(t, imagetest.File("a", "a")), imagetest.Tar(t, imagetest.Entry{
			Header: tar.Header{Typeflag: 'V', Name: "a volume's label"},
		})}}, reason.ArtifactInvalid, nil},
	} {
		for _, format := range formats {
			t.Run(name+" as "+format.String(), func(t *testing.T) {
				t.Parallel()
				store, desc := tc.image.Store(t)
				work := t.TempDir()
				result, err := convert(t.Context(), store, desc, stargz.Options{WorkDir: work, Format: format, MaxSize: 1 << 20})
				if err == nil {
					t.Fatalf("converted to %+v", result)
				}
				imagetest.ExpectRefused(t, err, tc.want, tc.is, work)
			})
		}
	}
}

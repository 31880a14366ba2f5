package convert

import (
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"

	"github.com/referee-cri/referee/internal/fsimage"
	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/internal/treecmp"
	"github.com/referee-cri/referee/lazyblock/convert/imagetest"
	"github.com/referee-cri/referee/lazyblock/convert/source"
	"github.com/referee-cri/referee/lazyblock/erofs"
	"github.com/referee-cri/referee/lazyblock/format/formattest"
)

// with reads an image and converts it as f does.
func with(f func(context.Context, *source.Image, Options) (*Result, error)) func(context.Context, content.Fetcher, ocispec.Descriptor, Options) (*Result, error) {
	return func(ctx context.Context, fetcher content.Fetcher, desc ocispec.Descriptor, opts Options) (*Result, error) {
		image, err := source.Read(ctx, fetcher, desc)
		if err != nil {
			return nil, err
		}
		return f(ctx, image, opts)
	}
}

func flat(compress bool) func(context.Context, *source.Image, Options) (*Result, error) {
	return func(ctx context.Context, image *source.Image, opts Options) (*Result, error) {
		return Flat(ctx, image, compress, opts)
	}
}

// mountLayers mounts each layer and overlayfs above them, the top one first.
func mountLayers(t *testing.T, layers []Layer) string {
	t.Helper()
	var lower []string
	for _, layer := range slices.Backward(layers) {
		lower = append(lower, fsimage.MountFile(t, layer.Path))
	}
	return mountOverlay(t, lower)
}

func TestErofsLayersAddUpToTheRecordedTree(t *testing.T) {
	t.Parallel()
	store, desc := imagetest.Reference(t, "tiny")
	result, err := with(Layers)(t.Context(), store, desc, Options{WorkDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	for _, layer := range result.Layers {
		fsimage.CheckEROFS(t, layer.Path)
	}
	for n := 1; n <= len(result.Layers); n++ {
		treecmp.ExpectAt(t, formattest.TinyTrees(t)[n-1], mountLayers(t, result.Layers[:n]), formattest.CountsWhiteout)
	}
}

func TestADiskHoldsTheRecordedTree(t *testing.T) {
	t.Parallel()
	for _, tag := range []string{"tiny", "tiny-lower-link"} {
		t.Run(tag, func(t *testing.T) {
			t.Parallel()
			store, desc := imagetest.Reference(t, tag)
			result, err := with(flat(false))(t.Context(), store, desc, Options{WorkDir: t.TempDir()})
			if err != nil {
				t.Fatal(err)
			}
			disk := result.Layers[0].Path
			fsimage.CheckEROFS(t, disk)
			ignores := []treecmp.Ignore{formattest.CountsWhiteout}
			if tag == "tiny-lower-link" {
				ignores = []treecmp.Ignore{{Path: "/nasty/xattr/trusted", Field: treecmp.FieldXattrs, Why: "the recording unpacker keeps trusted.lab, containerd drops it"}}
			}
			treecmp.ExpectAt(t, treecmp.Recorded(t, tag+".tree.jsonl"), fsimage.MountFile(t, disk), ignores...)
			treecmp.ExpectAt(t, treecmp.Recorded(t, tag+".tree.jsonl"), fsimage.MountLoop(t, "erofs", disk), ignores...)
		})
	}
}

// TestCompressedDiskIsOrdinaryZstd has the program of the zstd project decompress it.
func TestCompressedDiskIsOrdinaryZstd(t *testing.T) {
	t.Parallel()
	tool, err := exec.LookPath("zstd")
	if err != nil {
		t.Skip("zstd is not installed")
	}
	store, desc := imagetest.Reference(t, "tiny")
	var disks [][]byte
	for _, compress := range []bool{false, true} {
		result, err := with(flat(compress))(t.Context(), store, desc, Options{WorkDir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		made := result.Layers[0]
		disk, err := os.ReadFile(made.Path)
		if err != nil {
			t.Fatal(err)
		}
		if digest.FromBytes(disk) != made.Descriptor.Digest || int64(len(disk)) != made.Descriptor.Size {
			t.Errorf("%d bytes, described as %+v", len(disk), made.Descriptor)
		}
		if compress {
			cmd := exec.CommandContext(t.Context(), tool, "-dc")
			cmd.Stdin = bytes.NewReader(disk)
			if disk, err = cmd.Output(); err != nil {
				t.Fatal(err)
			}
		}
		disks = append(disks, disk)
	}
	if !bytes.Equal(disks[0], disks[1]) {
		t.Errorf("disk of %d bytes, decompressed to %d others", len(disks[0]), len(disks[1]))
	}
}

func TestADiskHasNoRoomForWhatIsGone(t *testing.T) {
	t.Parallel()
	const size = 4 << 20
	content := strings.Repeat("large ", size/6)
	tars := [][]byte{imagetest.Tar(t, imagetest.File("gone", content), imagetest.File("stays", "s")), imagetest.Tar(t, imagetest.File(".wh.gone", ""))}
	store, desc := imagetest.Image{Tars: tars}.Store(t)
	result, err := with(flat(false))(t.Context(), store, desc, Options{WorkDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if got := result.Layers[0].Descriptor.Size; got > 16<<blockBits {
		t.Errorf("the disk has %d bytes", got)
	}
}

func TestFormsWithoutLayersOfDisksAreDeterministic(t *testing.T) {
	t.Parallel()
	store, desc := imagetest.Reference(t, "tiny")
	for name, convert := range map[string]func(context.Context, *source.Image, Options) (*Result, error){
		"EROFS layers": Layers, "disk": flat(false), "compressed disk": flat(true),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var made [][]digest.Digest
			for range 2 {
				work := t.TempDir()
				result, err := with(convert)(t.Context(), store, desc, Options{WorkDir: work})
				if err != nil {
					t.Fatal(err)
				}
				digests := []digest.Digest{digest.FromBytes(result.Config)}
				for _, layer := range result.Layers {
					digests = append(digests, layer.Descriptor.Digest)
				}
				made = append(made, digests)
				if files, err := os.ReadDir(work); err != nil || len(files) != len(result.Layers) {
					t.Errorf("%d files for %d layers, %v", len(files), len(result.Layers), err)
				}
			}
			if diff := cmp.Diff(made[0], made[1]); diff != "" {
				t.Errorf("two runs differ:\n%s", diff)
			}
		})
	}
}

func TestLayersDependOnNothingAboveThem(t *testing.T) {
	t.Parallel()
	base := imagetest.Tar(t, imagetest.Dir("d"), imagetest.File("d/f", "f"))
	var bases []digest.Digest
	for _, top := range []string{"x", "y"} {
		store, desc := imagetest.Image{Tars: [][]byte{base, imagetest.Tar(t, imagetest.File(top, top))}}.Store(t)
		result, err := with(Layers)(t.Context(), store, desc, Options{WorkDir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		bases = append(bases, result.Layers[0].Descriptor.Digest)
	}
	if bases[0] != bases[1] {
		t.Errorf("one base layer became %v", bases)
	}
}

func TestWrongImagesAreNoLayersAndNoDisk(t *testing.T) {
	t.Parallel()
	good := imagetest.Tar(t, imagetest.File("a", "content"))
	for name, tc := range map[string]struct {
		image  imagetest.Image
		want   reason.Code
		is     error
		layers bool // of EROFS layers only
	}{
		"wrong diff ID":          {imagetest.Image{Tars: [][]byte{good}, DiffIDs: []digest.Digest{digest.FromString("other")}}, reason.DigestMismatch, nil, false},
		"half a tar":             {imagetest.Image{Tars: [][]byte{good[:515]}}, reason.ArtifactInvalid, io.ErrUnexpectedEOF, false},
		"half a gzip":            {imagetest.Image{Tars: [][]byte{good}, Pack: []func([]byte) []byte{halfGzip}}, reason.ArtifactInvalid, io.ErrUnexpectedEOF, false},
		"bomb of zeros":          {imagetest.Image{Tars: [][]byte{append(slices.Clone(good), make([]byte, 4<<20)...)}}, reason.ArtifactInvalid, source.ErrTooLarge, false},
		"bomb of holes":          {imagetest.Image{Tars: [][]byte{imagetest.SparseTar(t, 80<<30)}}, reason.ArtifactInvalid, erofs.ErrDiskFull, false},
		"a second layer's fault": {imagetest.Image{Tars: [][]byte{good, good[:515]}}, reason.ArtifactInvalid, io.ErrUnexpectedEOF, false},
		"link to a lower layer":  {imagetest.Image{Tars: [][]byte{good, imagetest.Tar(t, imagetest.Hardlink("b", "a"))}}, reason.ArtifactInvalid, erofs.ErrInvalid, true},
	} {
		for form, convert := range map[string]func(context.Context, *source.Image, Options) (*Result, error){"layers": Layers, "disk": flat(true)} {
			if tc.layers && form == "disk" {
				continue
			}
			t.Run(name+" as "+form, func(t *testing.T) {
				t.Parallel()
				store, desc := tc.image.Store(t)
				work := t.TempDir()
				result, err := with(convert)(t.Context(), store, desc, Options{WorkDir: work, MaxSize: 1 << 20})
				if err == nil {
					t.Fatalf("converted to %+v", result)
				}
				imagetest.ExpectRefused(t, err, tc.want, tc.is, work)
			})
		}
	}
}

func halfGzip(b []byte) []byte {
	packed := imagetest.Gzip(b)
	return packed[:len(packed)/2]
}

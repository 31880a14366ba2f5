package rafstest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/internal/fsimage"
	"github.com/referee-cri/referee/lazyblock/erofs"
	"github.com/referee-cri/referee/lazyblock/erofs/ondisk"
	"github.com/referee-cri/referee/lazyblock/tarinode"
)

// Options of Write. The zero value is good.
type Options struct {
	ChunkSize   int // default 64 KiB
	Compression int
	SHA256      bool // digests of chunks; else BLAKE3
	V2          bool // rows of version 2 in blobs
	Batch       int  // files of less than half of it are compressed several at a time; 0: each by itself
	NoChunks    bool // no table of chunks in the bootstrap
	Zran        bool // data stays in the original layers, which are written here
	Originals   bool // with Zran: layers are original ones, as they stand in an image
	Prefetch    []string
}

// Image is what was written.
type Image struct {
	Bootstrap []byte   // image.boot
	Blobs     [][]byte // by layer that has files with content
	Originals [][]byte // with Options.Zran: those layers themselves
}

// Where the tables are: in the blocks before the inodes.
const (
	extOffset   = 1024 + 128
	slotsOffset = extOffset + 256
	blobTable   = 1 * blockSize
	prefetches  = 2 * blockSize
	inodes      = 3 // block
)

// Write makes an image of layers, uncompressed tars unless they are originals,
// bottom first.
func Write(t testing.TB, layers [][]byte, opts Options) *Image {
	t.Helper()
	if opts.ChunkSize == 0 {
		opts.ChunkSize = 64 << 10
	}
	tree := erofs.NewTree(erofs.Limits{})
	var blobs []*blob
	for _, layer := range layers {
		b := &blob{opts: opts}
		switch {
		case opts.Originals:
			b.original = readOriginal(t, layer)
			layer = fsimage.Decompress(t, layer)
		case opts.Zran:
			b.original = makeOriginal(layer)
		}
		apply(t, tree, layer, b, uint16(len(blobs)+1))
		if b.address > 0 {
			b.finish(t)
			blobs = append(blobs, b)
		}
	}
	img := &Image{}
	options := erofs.LayoutOptions{Start: inodes}
	for _, b := range blobs {
		img.Blobs = append(img.Blobs, b.data.Bytes())
		if b.original != nil {
			img.Originals = append(img.Originals, b.original.file)
		}
		options.Devices = append(options.Devices, erofs.DeviceSlot{Tag: b.id, Blocks: uint64(b.address / blockSize)})
	}
	layout, err := tree.Layout(options)
	if err != nil {
		t.Fatal(err)
	}
	out := &buffer{}
	if err := layout.Write(t.Context(), out); err != nil {
		t.Fatal(err)
	}
	out.grow(int(layout.End()) * blockSize)
	img.Bootstrap = out.bytes
	img.rafs(t, blobs, opts)
	return img
}

// apply adds a layer to tree and its files' content to b.
func apply(t testing.TB, tree *erofs.Tree, layer []byte, b *blob, device uint16) {
	t.Helper()
	changes := tree.NewLayer()
	stream := bytes.NewReader(layer)
	for tr := tar.NewReader(stream); ; {
		header, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		in, err := tarinode.Of(header)
		if err != nil {
			t.Fatal(err)
		}
		if header.Typeflag == tar.TypeLink {
			if err := changes.Link(header.Name, header.Linkname, in); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if in.Size = header.Size; in.Size > 0 {
			at := len(layer) - stream.Len()
			content, err := io.ReadAll(tr)
			if err != nil {
				t.Fatal(err)
			}
			in.Data = erofs.Extent{Device: device}
			if b.original != nil {
				in.Data.Block = b.addOriginal(content, at)
			} else {
				in.Data.Block = b.add(t, content)
			}
		}
		if err := changes.Add(header.Name, in); err != nil {
			t.Fatal(err)
		}
	}
	if err := tree.Apply(changes); err != nil {
		t.Fatal(err)
	}
}

// rafs adds to an EROFS image what RAFS has beyond it.
func (i *Image) rafs(t testing.TB, blobs []*blob, opts Options) {
	t.Helper()
	b, le := i.Bootstrap, binary.LittleEndian
	super := b[1024:]
	copy(b[slotsOffset:], bytes.Clone(b[extOffset:][:128*len(blobs)])) // the slots make room for the second superblock
	clear(b[extOffset:slotsOffset])
	mapped := uint32(len(b) / blockSize)
	for n, blob := range blobs {
		le.PutUint32(b[slotsOffset+128*n+68:], mapped)
		mapped += uint32(blob.address / blockSize)
		copy(b[blobTable+256*n:], blob.describe(uint32(n)))
	}
	le.PutUint32(super[4:], 0)
	le.PutUint32(super[8:], 0x40000000|0x2)
	le.PutUint32(super[80:], 0x4|0x8)
	le.PutUint16(super[88:], slotsOffset/128)

	ext := b[extOffset:]
	le.PutUint64(ext, opts.flags())
	le.PutUint64(ext[8:], blobTable)
	le.PutUint32(ext[16:], uint32(256*len(blobs)))
	le.PutUint32(ext[20:], uint32(opts.ChunkSize))
	i.prefetch(t, opts.Prefetch)
	if opts.NoChunks {
		return
	}
	var table []byte
	for n, blob := range blobs {
		for index, c := range blob.chunks {
			table = append(table, c.describe(uint32(n), uint32(index))...)
		}
	}
	le.PutUint64(ext[24:], uint64(len(b)))
	le.PutUint64(ext[32:], uint64(len(table)))
	i.Bootstrap = append(i.Bootstrap, table...)
	if rest := len(i.Bootstrap) % blockSize; rest > 0 {
		i.Bootstrap = append(i.Bootstrap, make([]byte, blockSize-rest)...)
	}
}

// prefetch writes the numbers of the inodes of these paths.
func (i *Image) prefetch(t testing.TB, paths []string) {
	t.Helper()
	le := binary.LittleEndian
	img, err := ondisk.Open(t.Context(), &buffer{i.Bootstrap})
	if err != nil {
		t.Fatal(err)
	}
	numbers := map[string]uint64{}
	err = img.Walk(t.Context(), func(name string, f *ondisk.File) error {
		numbers[name] = f.NID
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for n, path := range paths {
		nid, ok := numbers[path]
		if !ok {
			t.Fatalf("no file %s to prefetch", path)
		}
		le.PutUint32(i.Bootstrap[prefetches+4*n:], uint32(nid))
	}
	le.PutUint64(i.Bootstrap[extOffset+40:], prefetches)
	le.PutUint32(i.Bootstrap[extOffset+48:], uint32(4*len(paths)))
}

func (o Options) flags() uint64 {
	flags := uint64(0x10 | 0x20 | 0x100 | 0x01000000)
	compression := o.Compression
	if o.Zran || o.Originals {
		compression = Gzip
	}
	flags |= map[int]uint64{None: 1, LZ4: 2, Gzip: 0x40, Zstd: 0x80}[compression]
	if o.SHA256 {
		return flags | 8
	}
	return flags | 4
}

// describe spells the blob's row in the bootstrap.
func (b *blob) describe(index uint32) []byte {
	row := make([]byte, 256)
	le := binary.LittleEndian
	copy(row, b.id)
	le.PutUint32(row[64:], index)
	le.PutUint32(row[68:], uint32(b.opts.ChunkSize))
	le.PutUint32(row[72:], uint32(len(b.chunks)))
	le.PutUint32(row[76:], uint32(b.opts.Compression))
	if b.original != nil {
		le.PutUint32(row[76:], Gzip)
		copy(row[168:], b.listDigest[:])
		le.PutUint64(row[200:], uint64(b.data.Len()))
	}
	if b.opts.SHA256 {
		le.PutUint32(row[80:], 1)
	}
	le.PutUint32(row[84:], b.features())
	le.PutUint64(row[88:], uint64(b.stored))
	le.PutUint64(row[96:], uint64(b.address))
	le.PutUint32(row[104:], uint32(len(b.toc)))
	le.PutUint32(row[108:], uint32(b.metaHow))
	le.PutUint64(row[112:], uint64(b.metaOff))
	le.PutUint64(row[120:], uint64(b.metaStored))
	le.PutUint64(row[128:], uint64(b.metaSize))
	copy(row[136:], b.tocDigest[:])
	return row
}

// describe spells the chunk's row in the bootstrap.
func (c *chunk) describe(blob, index uint32) []byte {
	row := make([]byte, 80)
	le := binary.LittleEndian
	copy(row, c.digest[:])
	flags := uint32(0)
	if c.packed {
		flags |= 1
	}
	if c.batch >= 0 && !c.zran {
		flags |= 8
	}
	le.PutUint32(row[32:], blob)
	le.PutUint32(row[36:], flags)
	le.PutUint32(row[40:], uint32(c.stored))
	le.PutUint32(row[44:], uint32(c.size))
	le.PutUint64(row[48:], uint64(c.off))
	le.PutUint64(row[56:], uint64(c.at))
	le.PutUint32(row[72:], index)
	return row
}

// BootstrapLayer is the bootstrap as it stands in a registry.
func (i *Image) BootstrapLayer(t testing.TB) []byte {
	t.Helper()
	var out bytes.Buffer
	compressed := gzip.NewWriter(&out)
	w := tar.NewWriter(compressed)
	for _, err := range []error{
		w.WriteHeader(&tar.Header{Name: "image/", Typeflag: tar.TypeDir, Mode: 0o755}),
		w.WriteHeader(&tar.Header{Name: "image/image.boot", Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(i.Bootstrap))}),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Write(i.Bootstrap); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.Close(), compressed.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// Layers are the image's layers as a manifest has them, and their content, the
// bootstrap last.
func (i *Image) Layers(t testing.TB) ([]ocispec.Descriptor, [][]byte) {
	t.Helper()
	var layers []ocispec.Descriptor
	contents := slices.Concat(i.Blobs, [][]byte{i.BootstrapLayer(t)})
	for n, content := range contents {
		d := ocispec.Descriptor{
			MediaType: "application/vnd.oci.image.layer.nydus.blob.v1", Digest: digest.FromBytes(content), Size: int64(len(content)),
			Annotations: map[string]string{"containerd.io/snapshot/nydus-blob": "true"},
		}
		if n < len(i.Originals) {
			d.Annotations["containerd.io/snapshot/nydus-ref"] = digest.FromBytes(i.Originals[n]).String()
		}
		if n == len(i.Blobs) {
			d.MediaType = ocispec.MediaTypeImageLayerGzip
			d.Annotations = map[string]string{"containerd.io/snapshot/nydus-bootstrap": "true", "containerd.io/snapshot/nydus-fs-version": "6"}
		}
		layers = append(layers, d)
	}
	return layers, contents
}

// Tables are the original layers that hold the image's data, with Options.Zran.
func (i *Image) Tables() []ocispec.Descriptor {
	var tables []ocispec.Descriptor
	for _, original := range i.Originals {
		tables = append(tables, ocispec.Descriptor{
			MediaType: ocispec.MediaTypeImageLayerGzip, Digest: digest.FromBytes(original), Size: int64(len(original)),
		})
	}
	return tables
}

// Where is the offset in the bootstrap of the row of a blob, for tests that bend it.
func Where(blob int) int { return blobTable + 256*blob }

// Superblock and Extended are where the two superblocks are in a bootstrap.
const (
	Superblock = 1024
	Extended   = extOffset
)

package nydus

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"math/bits"

	"github.com/referee-cri/referee/lazyblock/erofs/ondisk"
)

// Where RAFS puts its own superblock, and what it says (struct RafsV6SuperBlockExt).
const (
	extOffset    = ondisk.SuperOffset + ondisk.SuperSize
	extSize      = 256
	deviceSlot   = (extOffset + extSize) / ondisk.DeviceSlotSize // the only place for device slots
	blockSize    = 4096
	blobRowSize  = 256
	chunkRowSize = 80
	nidSize      = 4

	compatRAFS  = 0x40000000 // feature_compat of RAFS version 6
	incompatAll = 0x4 | 0x8  // chunk-based files, device table: all that RAFS uses

	magicV5 = 0x52414653 // at the start of a bootstrap of version 5
)

// Flags of the extended superblock.
const (
	flagTarfs     = 0x200
	flagEncrypted = 0x02000000
)

// Chunk sizes that Nydus allows.
const (
	minChunkSize = 4 << 10
	maxChunkSize = 16 << 20
)

// maxBlobs is what device numbers of eight bits leave.
const maxBlobs = 254

// bootstrap is the parsed metadata of an image. Tables are parts of the image.
type bootstrap struct {
	image    image
	super    *ondisk.Super
	blobs    []blobInfo
	chunks   []byte // rows of chunkRowSize
	prefetch []byte // inode numbers of nidSize
}

func parseBootstrap(ctx context.Context, img image) (*bootstrap, error) {
	if len(img) >= 4 && binary.LittleEndian.Uint32(img) == magicV5 {
		return nil, refused("the bootstrap is RAFS version 5, want 6")
	}
	super, err := ondisk.ReadSuper(ctx, img)
	if err != nil {
		return nil, err
	}
	b := &bootstrap{image: img, super: super}
	switch {
	case super.Compat&compatRAFS == 0:
		return nil, corrupt("EROFS image without the mark of RAFS version 6: features %#x", super.Compat)
	case super.BlockSize() != blockSize:
		return nil, refused("blocks of %d bytes, as the tarfs mode has them, want %d", super.BlockSize(), blockSize)
	case super.Incompat&^incompatAll != 0:
		return nil, refused("EROFS features %#x that RAFS does not use", super.Incompat)
	case len(super.Devices) > maxBlobs:
		return nil, corrupt("%d blobs, more than %d", len(super.Devices), maxBlobs)
	case len(super.Devices) > 0 && super.DeviceSlot != deviceSlot:
		return nil, corrupt("device table in slot %d, want %d", super.DeviceSlot, deviceSlot)
	case len(img) < extOffset+extSize:
		return nil, corrupt("bootstrap of %d bytes", len(img))
	}
	if err := b.readTables(img[extOffset:]); err != nil {
		return nil, err
	}
	return b, nil
}

// readTables reads what the extended superblock leads to.
func (b *bootstrap) readTables(ext []byte) error {
	le := binary.LittleEndian
	switch flags := le.Uint64(ext); {
	case flags&flagTarfs != 0:
		return refused("the image is in tarfs mode: its data is in the original layers")
	case flags&flagEncrypted != 0:
		return refused("the image is encrypted")
	}
	if size := le.Uint32(ext[20:]); size < minChunkSize || size > maxChunkSize || bits.OnesCount32(size) != 1 {
		return corrupt("chunks of %d bytes, want a power of two from %d to %d", size, minChunkSize, maxChunkSize)
	}
	blobs, err := b.table("blobs", le.Uint64(ext[8:]), uint64(le.Uint32(ext[16:])), blobRowSize)
	if err != nil {
		return err
	}
	if b.chunks, err = b.table("chunks", le.Uint64(ext[24:]), le.Uint64(ext[32:]), chunkRowSize); err != nil {
		return err
	}
	if b.prefetch, err = b.table("prefetch", le.Uint64(ext[40:]), uint64(le.Uint32(ext[48:])), nidSize); err != nil {
		return err
	}
	if rows := len(blobs) / blobRowSize; rows != len(b.super.Devices) {
		return corrupt("%d blobs for %d devices", rows, len(b.super.Devices))
	}
	for i, device := range b.super.Devices {
		info, err := parseBlob(blobs[i*blobRowSize:][:blobRowSize], device)
		if err != nil {
			return err
		}
		b.blobs = append(b.blobs, info)
	}
	return nil
}

// table returns a table of whole rows within the image.
func (b *bootstrap) table(name string, off, size, row uint64) ([]byte, error) {
	switch total := uint64(len(b.image)); {
	case size == 0:
		return nil, nil
	case size%row != 0:
		return nil, corrupt("table of %s has %d bytes, no multiple of %d", name, size, row)
	case size > total || off > total-size:
		return nil, corrupt("table of %s: %d bytes at %d of a bootstrap of %d", name, size, off, total)
	}
	return b.image[off : off+size], nil
}

// Features of a blob.
const (
	featureAligned   = 0x1
	featureZran      = 0x8
	featureSeparate  = 0x10
	featureTarfs     = 0x40
	featureEncrypted = 0x100
	featureExternal  = 0x800

	featureV2Chunks = 0x4
	featureDigests  = 0x20
	featureBatch    = 0x80
	featureTOC      = 0x20000000

	// featuresKnown are those that may be set: beside the above the file system's
	// metadata within (2), a dictionary of chunks (0x200), a blob of what is
	// prefetched (0x400), and how members are marked (0x10000000, 0x40000000).
	featuresKnown = featureAligned | 0x2 | featureV2Chunks | featureZran | featureSeparate | featureDigests | featureBatch |
		0x200 | 0x400 | 0x10000000 | featureTOC | 0x40000000
)

// maxChunks is what indexes of 24 bits leave (RAFS_MAX_CHUNKS).
const maxChunks = 1 << 24

// blobInfo is a row of the table of blobs.
type blobInfo struct {
	id          string // hexadecimal SHA-256 of the blob, or of the original layer that holds its data
	listID      string // of the blob that lists the chunks of an original layer
	chunks      int
	compression compression
	digests     digestAlgorithm
	features    uint32
	size        int64 // of the device: the chunks uncompressed, at aligned addresses

	metaCompression compression
	metaOffset      int64
	metaStored      int64
	metaSize        int64
	tocSize         int64
	tocDigest       [32]byte
}

func parseBlob(row []byte, device ondisk.Device) (blobInfo, error) {
	le := binary.LittleEndian
	b := blobInfo{
		id: string(row[:64]), chunks: int(le.Uint32(row[72:])),
		compression: compression(le.Uint32(row[76:])), digests: digestAlgorithm(le.Uint32(row[80:])), features: le.Uint32(row[84:]),
		size:            int64(device.Blocks) * blockSize,
		metaCompression: compression(le.Uint32(row[108:])),
		metaOffset:      int64(le.Uint64(row[112:])), metaStored: int64(le.Uint64(row[120:])), metaSize: int64(le.Uint64(row[128:])),
		tocSize: int64(le.Uint32(row[104:])), tocDigest: [32]byte(row[136:168]),
		listID: hex.EncodeToString(row[168:200]),
	}
	switch {
	case b.id != device.Tag:
		return b, corrupt("blob %.64q stands for device %.64q", b.id, device.Tag)
	case b.features&featureSeparate != 0 && b.features&featureZran == 0:
		return b, refused("blob %.64s is an index of an original layer that is not in the mode zran", b.id)
	case b.features&featureZran != 0 && (b.compression != compressionGzip || b.features&featureV2Chunks == 0 || b.features&featureBatch != 0):
		return b, corrupt("blob %.64s is in an original layer, with compression %d and the features %#x", b.id, b.compression, b.features)
	case b.features&featureTarfs != 0:
		return b, refused("blob %.64s is an original layer (tarfs)", b.id)
	case b.features&featureExternal != 0:
		return b, refused("blob %.64s is kept outside the registry", b.id)
	case b.features&featureEncrypted != 0 || le.Uint32(row[216:]) != 0:
		return b, refused("blob %.64s is encrypted", b.id)
	case b.features&^uint32(featuresKnown) != 0 || b.features&featureAligned == 0:
		return b, refused("blob %.64s has the features %#x, want aligned chunks and none beyond %#x", b.id, b.features, uint32(featuresKnown))
	case b.chunks > maxChunks:
		return b, corrupt("blob %.64s has %d chunks, more than %d", b.id, b.chunks, maxChunks)
	case b.size < int64(le.Uint64(row[96:])):
		return b, corrupt("blob %.64s has %d bytes, its device %d", b.id, le.Uint64(row[96:]), b.size)
	}
	if err := b.compression.check(); err != nil {
		return b, err
	}
	return b, b.digests.check()
}

package erofs

import "encoding/binary"

// Sizes and offsets, in bytes (erofs_fs.h).
const (
	superOffset    = 1024 // from the start of the device, whatever the block size
	superSize      = 128
	slotSize       = 32 // an inode number (nid) counts these from meta_blkaddr
	compactSize    = 32
	extendedSize   = 64
	direntSize     = 12
	deviceSlotSize = 128
	chunkIndexSize = 8
	xattrHeadSize  = 12 // erofs_xattr_ibody_header
	xattrEntrySize = 4
	xattrAlign     = 4
)

// Superblock magic and feature bits.
const (
	superMagic    = 0xE0F5E1E2
	superChecksum = 4 // offset of the checksum

	compatSuperChecksum = 0x1 // the checksum field is right
	compatMtime         = 0x2 // inode times are mtime, not ctime

	incompatChunkedFile = 0x4
	incompatDeviceTable = 0x8
)

// Values of i_format: bit 0 is the inode version, bits 1 to 3 the data layout.
const (
	formatExtended = 1

	layoutFlatPlain  = 0 << 1 // data in whole blocks from i_u
	layoutFlatInline = 2 << 1 // the last partial block follows the inode
	layoutChunked    = 4 << 1 // an array of chunk indexes follows the inode
)

const (
	chunkHasIndexes  = 0x20       // chunk format: 8-byte indexes, not bare block numbers
	maxBlocks        = 0xFFFFFFFF // block numbers have 32 bits; all ones means a hole
	maxExtraDevices  = 0xFFFF
	maxDeviceTagSize = 64
)

// Inode types in directory entries (fs_types.h), by the type nibble of a mode.
func direntType(mode uint32) byte {
	switch mode & TypeMask {
	case TypeRegular:
		return 1
	case TypeDir:
		return 2
	case TypeChar:
		return 3
	case TypeBlock:
		return 4
	case TypeFIFO:
		return 5
	case TypeSocket:
		return 6
	case TypeSymlink:
		return 7
	default:
		return 0
	}
}

// superblock is the part of struct erofs_super_block that this writer sets.
type superblock struct {
	blockBits   uint8
	rootNID     uint16
	inodes      uint64
	blocks      uint32
	metaBlock   uint32
	uuid        [16]byte
	incompat    uint32
	devices     uint16
	deviceTable uint16 // in units of deviceSlotSize from the start of the device
}

// encode spells the superblock, but for its checksum.
func (s *superblock) encode(b []byte) {
	le := binary.LittleEndian
	le.PutUint32(b[0:], superMagic)
	le.PutUint32(b[8:], compatSuperChecksum|compatMtime)
	b[12] = s.blockBits
	le.PutUint16(b[14:], s.rootNID)
	le.PutUint64(b[16:], s.inodes)
	le.PutUint32(b[36:], s.blocks)
	le.PutUint32(b[40:], s.metaBlock)
	copy(b[48:64], s.uuid[:])
	le.PutUint32(b[80:], s.incompat)
	le.PutUint16(b[86:], s.devices)
	le.PutUint16(b[88:], s.deviceTable)
}

// encodeDeviceSlot spells struct erofs_deviceslot.
func encodeDeviceSlot(b []byte, d DeviceSlot) {
	copy(b[:maxDeviceTagSize], d.Tag)
	binary.LittleEndian.PutUint32(b[64:], uint32(d.Blocks))
}

// rawInode is an inode's header as both versions hold it.
type rawInode struct {
	layout     uint16
	xattrCount uint16 // i_xattr_icount
	mode       uint16
	links      uint32
	size       uint64
	union      uint32 // i_u: block number, device number or chunk format
	number     uint32 // i_ino, only for 32-bit stat
	uid, gid   uint32
	mtime      int64
	mtimeNsec  uint32
}

// compact reports whether the 32-byte version can hold r: it has no time of its
// own but the superblock's build time, which is 0.
func (r *rawInode) compact() bool {
	return r.mtime == 0 && r.mtimeNsec == 0 &&
		r.uid <= 0xFFFF && r.gid <= 0xFFFF && r.links <= 0xFFFF && r.size <= 0xFFFFFFFF
}

func (r *rawInode) encodeCompact(b []byte) {
	le := binary.LittleEndian
	le.PutUint16(b[0:], r.layout)
	le.PutUint16(b[2:], r.xattrCount)
	le.PutUint16(b[4:], r.mode)
	le.PutUint16(b[6:], uint16(r.links))
	le.PutUint32(b[8:], uint32(r.size))
	le.PutUint32(b[16:], r.union)
	le.PutUint32(b[20:], r.number)
	le.PutUint16(b[24:], uint16(r.uid))
	le.PutUint16(b[26:], uint16(r.gid))
}

func (r *rawInode) encodeExtended(b []byte) {
	le := binary.LittleEndian
	le.PutUint16(b[0:], r.layout|formatExtended)
	le.PutUint16(b[2:], r.xattrCount)
	le.PutUint16(b[4:], r.mode)
	le.PutUint64(b[8:], r.size)
	le.PutUint32(b[16:], r.union)
	le.PutUint32(b[20:], r.number)
	le.PutUint32(b[24:], r.uid)
	le.PutUint32(b[28:], r.gid)
	le.PutUint64(b[32:], uint64(r.mtime))
	le.PutUint32(b[40:], r.mtimeNsec)
	le.PutUint32(b[44:], r.links)
}

func encodeDirent(b []byte, nid uint64, nameOffset int, fileType byte) {
	binary.LittleEndian.PutUint64(b[0:], nid)
	binary.LittleEndian.PutUint16(b[8:], uint16(nameOffset))
	b[10] = fileType
}

func encodeChunkIndex(b []byte, device uint16, block uint32) {
	binary.LittleEndian.PutUint16(b[2:], device)
	binary.LittleEndian.PutUint32(b[4:], block)
}

package erofs

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
)

// Write writes the metadata in ascending order from LayoutOptions.Start on, and
// the superblock, at the start of the image, last. It writes whole blocks, each
// once, and leaves out blocks of zeros behind the superblock.
func (l *Layout) Write(ctx context.Context, w io.WriterAt) error {
	out := &metadata{data: NewData(w, l.opts.BlockBits, l.opts.Start, l.end)}
	if err := l.writeInodes(ctx, out); err != nil {
		return fmt.Errorf("write inodes: %w", err)
	}
	if err := l.writeBlocks(ctx, out); err != nil {
		return fmt.Errorf("write directories: %w", err)
	}
	if err := out.data.Flush(); err != nil {
		return err
	}
	if _, err := w.WriteAt(l.head(), 0); err != nil {
		return fmt.Errorf("write superblock: %w", err)
	}
	return nil
}

// metadata appends the encoded pieces to the disk.
type metadata struct {
	data    *Data
	offset  int64 // bytes since the start of the inodes
	scratch []byte
}

// advance puts zeros up to offset.
func (m *metadata) advance(offset int64) error {
	n := int(offset - m.offset)
	m.offset = offset
	return m.data.write(nil, n)
}

func (m *metadata) write(p []byte) error {
	m.offset += int64(len(p))
	return m.data.write(p, 0)
}

// checkEvery is how many inodes are encoded between looks at the context.
const checkEvery = 1024

func (l *Layout) writeInodes(ctx context.Context, out *metadata) error {
	for i := range l.files {
		if i%checkEvery == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		file := &l.files[i]
		if err := out.advance(int64(file.inode.place.nid) * slotSize); err != nil {
			return err
		}
		out.scratch = l.appendInode(out.scratch[:0], file, uint32(i+1))
		if err := out.write(out.scratch); err != nil {
			return err
		}
	}
	return out.advance(align(out.offset, l.blockSize()))
}

// writeBlocks writes what of directories and links does not follow an inode.
func (l *Layout) writeBlocks(ctx context.Context, out *metadata) error {
	for i := range l.files {
		if i%checkEvery == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		file := &l.files[i]
		if file.blocks == 0 {
			continue
		}
		if file.inode.Type() == TypeSymlink {
			if err := out.write([]byte(file.inode.Target)); err != nil {
				return err
			}
		}
		for from, n := 0, uint64(0); n < file.blocks && file.inode.IsDir(); n++ {
			to, _ := fillDirBlock(file.names, from, int(l.blockSize()))
			out.scratch = l.appendDirBlock(out.scratch[:0], file, from, to)
			if err := out.write(out.scratch); err != nil {
				return err
			}
			if err := out.advance(align(out.offset, l.blockSize())); err != nil {
				return err
			}
			from = to
		}
		if err := out.advance(align(out.offset, l.blockSize())); err != nil {
			return err
		}
	}
	return nil
}

// raw is the header of an inode, once its content is measured and links are counted.
func (l *Layout) raw(file *placed) rawInode {
	in := file.inode
	r := rawInode{
		layout: layoutFlatPlain, xattrCount: in.Xattrs.count(), mode: uint16(in.Mode), links: in.place.links,
		size: uint64(file.size), uid: in.UID, gid: in.GID, mtime: in.Mtime, mtimeNsec: in.Nsec,
	}
	if file.inline > 0 {
		r.layout = layoutFlatInline
	}
	switch in.Type() {
	case TypeChar, TypeBlock:
		r.union = encodedDevice(in.Major, in.Minor)
	case TypeDir, TypeSymlink:
		if file.blocks > 0 {
			r.union = uint32(file.block)
		}
	case TypeRegular:
		r.union = uint32(in.Data.Block)
		if l.chunks(in) > 0 {
			r.layout = layoutChunked
			r.union = uint32(chunkHasIndexes | l.chunkBits(in) - l.opts.BlockBits)
		}
	}
	return r
}

// appendInode appends an inode with all that follows it.
func (l *Layout) appendInode(b []byte, file *placed, number uint32) []byte {
	in := file.inode
	raw := l.raw(file)
	raw.number = number
	if raw.compact() {
		b = append(b, make([]byte, compactSize)...)
		raw.encodeCompact(b)
	} else {
		b = append(b, make([]byte, extendedSize)...)
		raw.encodeExtended(b)
	}
	b = in.Xattrs.appendTo(b)
	if chunks := l.chunks(in); chunks > 0 {
		b = append(b, make([]byte, align(len(b), chunkIndexSize)-len(b))...)
		step := uint64(1) << (l.chunkBits(in) - l.opts.BlockBits)
		for n := range uint64(chunks) {
			b = append(b, make([]byte, chunkIndexSize)...)
			encodeChunkIndex(b[len(b)-chunkIndexSize:], in.Data.Device, uint32(in.Data.Block+n*step))
		}
	}
	switch {
	case file.inline == 0:
	case in.IsDir():
		b = l.appendDirBlock(b, file, file.tail, len(file.names))
	default:
		b = append(b, in.Target...)
	}
	return b
}

// appendDirBlock appends the entries of names[from:to] and then their names.
func (l *Layout) appendDirBlock(b []byte, dir *placed, from, to int) []byte {
	start := len(b)
	b = append(b, make([]byte, (to-from)*direntSize)...)
	for i, name := range dir.names[from:to] {
		target := dir.inode.children[name]
		switch name {
		case ".":
			target = dir.inode
		case "..":
			target = dir.parent
		}
		encodeDirent(b[start+i*direntSize:], target.place.nid, len(b)-start, direntType(target.Mode))
		b = append(b, name...)
	}
	return b
}

// head encodes the image's first blocks: superblock and device table.
func (l *Layout) head() []byte {
	devices := len(l.opts.Devices)
	b := make([]byte, HeadBlocks(l.opts.BlockBits, devices)<<l.opts.BlockBits)
	super := superblock{
		blockBits: l.opts.BlockBits,
		rootNID:   uint16(l.files[0].inode.place.nid),
		inodes:    uint64(len(l.files)),
		blocks:    uint32(l.end),
		metaBlock: uint32(l.opts.Start),
		uuid:      l.opts.UUID,
	}
	if l.chunked {
		super.incompat |= incompatChunkedFile
	}
	if devices > 0 {
		super.incompat |= incompatDeviceTable
		super.devices = uint16(devices)
		super.deviceTable = (superOffset + superSize) / deviceSlotSize
	}
	super.encode(b[superOffset:])
	for i, d := range l.opts.Devices {
		encodeDeviceSlot(b[superOffset+superSize+i*deviceSlotSize:], d)
	}
	// The checksum covers the superblock's block from the superblock on. The
	// kernel's crc32c() does not invert at the end; hash/crc32 does.
	covered := int(l.blockSize())
	if covered > superOffset {
		covered -= superOffset
	}
	sum := b[superOffset : superOffset+covered]
	binary.LittleEndian.PutUint32(b[superOffset+superChecksum:], ^crc32.Checksum(sum, crc32.MakeTable(crc32.Castagnoli)))
	return b
}

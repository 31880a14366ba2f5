package erofs

import (
	"fmt"
	"math"
	"slices"
)

// LayoutOptions say where a tree's metadata goes.
type LayoutOptions struct {
	BlockBits uint8  // log2 of the block size: 9 to 12; 0 means 12
	Start     uint64 // first block free for metadata; at least HeadBlocks
	Limit     uint64 // blocks of the disk; 0 means as many as block numbers go
	UUID      [16]byte
	Devices   []DeviceSlot // extra devices, in the order of the mount options
}

// DeviceSlot describes an extra device.
type DeviceSlot struct {
	Tag    string // up to 64 bytes, informational
	Blocks uint64
}

// rootSlot is the root's inode number. Slot 0 stays empty: file number 0 means
// "no file" to more than one program.
const rootSlot = 1

// HeadBlocks is how many blocks at the start of the image the superblock and
// the table of extra devices take.
func HeadBlocks(blockBits uint8, devices int) uint64 {
	head := align(superOffset+superSize+devices*deviceSlotSize, 1<<blockBits)
	return uint64(head) >> blockBits
}

// Layout is a tree with a place for everything. It is valid until the tree
// changes or is laid out again.
type Layout struct {
	opts    LayoutOptions
	files   []placed // in the order of their inodes: breadth first, so shallow paths first
	end     uint64   // first block behind the metadata
	chunked bool
}

// placement is what the last layout noted in an inode.
type placement struct {
	layout uint32 // which layout
	links  uint32
	nid    uint64
}

// placed is one inode with its place.
type placed struct {
	inode  *Inode
	parent *Inode   // of a directory
	names  []string // of a directory, "." and ".." included, sorted
	inline int      // bytes of content that follow the inode: a directory's or link's last block
	tail   int      // of a directory: index of the first name of the inline block
	block  uint64   // where content in whole blocks begins
	blocks uint64
	size   int64 // i_size
}

// Layout places the tree's inodes and directories from opts.Start on.
func (t *Tree) Layout(opts LayoutOptions) (*Layout, error) {
	if opts.BlockBits == 0 {
		opts.BlockBits = 12
	}
	if opts.Limit == 0 || opts.Limit > maxBlocks {
		opts.Limit = maxBlocks
	}
	if err := opts.check(); err != nil {
		return nil, fmt.Errorf("lay out tree: %w", err)
	}
	t.layouts++
	l := &Layout{opts: opts}
	l.enumerate(t.root, t.layouts)
	inodes, err := l.placeInodes()
	if err != nil {
		return nil, fmt.Errorf("lay out tree: %w", err)
	}
	l.end = opts.Start + uint64(align(inodes, l.blockSize()))>>opts.BlockBits
	for i := range l.files {
		file := &l.files[i]
		file.block = l.end
		l.end += file.blocks
	}
	if l.end > opts.Limit {
		return nil, fmt.Errorf("lay out metadata of %d files up to block %d of %d: %w", len(l.files), l.end, opts.Limit, ErrDiskFull)
	}
	return l, nil
}

func (o *LayoutOptions) check() error {
	switch {
	case o.BlockBits < 9 || o.BlockBits > 12:
		return fmt.Errorf("block size of 2^%d bytes", o.BlockBits)
	case len(o.Devices) > maxExtraDevices:
		return fmt.Errorf("%d extra devices, more than %d", len(o.Devices), maxExtraDevices)
	case o.Start < HeadBlocks(o.BlockBits, len(o.Devices)):
		return fmt.Errorf("metadata from block %d would overlap the superblock", o.Start)
	}
	for i, d := range o.Devices {
		if len(d.Tag) > maxDeviceTagSize || d.Blocks > maxBlocks {
			return fmt.Errorf("extra device %d: tag of %d bytes, %d blocks", i+1, len(d.Tag), d.Blocks)
		}
	}
	return nil
}

// End is the first block behind the metadata.
func (l *Layout) End() uint64 { return l.end }

// Inodes is the number of files, names of hard links counted once.
func (l *Layout) Inodes() int { return len(l.files) }

func (l *Layout) blockSize() int64 { return 1 << l.opts.BlockBits }

// enumerate lists every inode once, breadth first, and counts links.
func (l *Layout) enumerate(root *Inode, layout uint32) {
	root.place = placement{layout: layout, links: 2}
	l.files = []placed{{inode: root, parent: root}}
	for i := 0; i < len(l.files); i++ {
		dir := l.files[i].inode
		if !dir.IsDir() {
			continue
		}
		names := make([]string, 0, len(dir.children)+2)
		for name := range dir.children {
			names = append(names, name)
		}
		names = append(names, ".", "..")
		slices.Sort(names) // in byte order, as the kernel's binary search wants
		l.files[i].names = names
		for _, name := range names {
			child := dir.children[name] // nil for "." and ".."
			switch {
			case child == nil:
			case child.place.layout == layout:
				child.place.links++
			case child.IsDir():
				child.place = placement{layout: layout, links: 2}
				dir.place.links++
				l.files = append(l.files, placed{inode: child, parent: dir})
			default:
				child.place = placement{layout: layout, links: 1}
				l.files = append(l.files, placed{inode: child})
			}
		}
	}
}

// placeInodes gives every inode its number and returns the bytes they take.
func (l *Layout) placeInodes() (int64, error) {
	offset := int64(rootSlot * slotSize)
	for i := range l.files {
		file := &l.files[i]
		if err := l.measure(file); err != nil {
			return 0, err
		}
		head := l.headSize(file)
		size := head + int64(file.inline)
		// An inode and what follows it share a block: the kernel wants that of
		// the inline tail. Only what is larger than a block runs on, from a
		// block's start.
		if used := offset & (l.blockSize() - 1); used+size > l.blockSize() && used > 0 {
			offset += l.blockSize() - used
		}
		file.inode.place.nid = uint64(offset / slotSize)
		offset = align(offset+size, slotSize)
	}
	if root := l.files[0].inode.place.nid; root > math.MaxUint16 {
		return 0, fmt.Errorf("root inode number %d needs more than 16 bits", root)
	}
	return offset, nil
}

// measure finds size and shape of an inode's content.
func (l *Layout) measure(file *placed) error {
	in := file.inode
	switch in.Type() {
	case TypeDir:
		l.measureDir(file)
	case TypeSymlink:
		file.size, file.inline = int64(len(in.Target)), len(in.Target)
	case TypeRegular:
		file.size = in.Size
		return l.checkExtent(in)
	}
	if l.headSize(file)+int64(file.inline) > l.blockSize() {
		file.inline = 0
	}
	if file.inline == 0 {
		file.blocks = uint64(align(file.size, l.blockSize())) >> l.opts.BlockBits
	} else {
		file.blocks = uint64(file.size) >> l.opts.BlockBits
	}
	return nil
}

// measureDir fills directory blocks with names, in order, as many as fit.
func (l *Layout) measureDir(file *placed) {
	blockSize := int(l.blockSize())
	for from := 0; from < len(file.names); {
		to, used := fillDirBlock(file.names, from, blockSize)
		if to < len(file.names) {
			file.size += int64(blockSize)
		} else {
			file.size += int64(used)
			file.tail = from
			if used < blockSize {
				file.inline = used
			}
		}
		from = to
	}
}

// fillDirBlock returns the end of the names from index from on that fit in one
// directory block, and the bytes they take.
func fillDirBlock(names []string, from, blockSize int) (to, used int) {
	for to = from; to < len(names); to++ {
		next := used + direntSize + len(names[to])
		if next > blockSize {
			break
		}
		used = next
	}
	return to, used
}

// checkExtent refuses data that the format cannot point at.
func (l *Layout) checkExtent(in *Inode) error {
	if in.Size == 0 {
		return nil
	}
	end := in.Data.Block + uint64(in.Size-1)>>l.opts.BlockBits + 1
	limit := uint64(maxBlocks)
	if d := int(in.Data.Device); d > 0 {
		if d > len(l.opts.Devices) {
			return fmt.Errorf("file on extra device %d of %d", d, len(l.opts.Devices))
		}
		limit = l.opts.Devices[d-1].Blocks
		l.chunked = true
	}
	if in.Data.Block > limit || end > limit {
		return fmt.Errorf("file of %d bytes at block %d of device %d: beyond block %d: %w", in.Size, in.Data.Block, in.Data.Device, limit, ErrDiskFull)
	}
	return nil
}

// headSize is the bytes of an inode, its attributes and its chunk indexes.
func (l *Layout) headSize(file *placed) int64 {
	size := int64(extendedSize)
	if raw := l.raw(file); raw.compact() {
		size = compactSize
	}
	size += int64(file.inode.Xattrs.size())
	if chunks := l.chunks(file.inode); chunks > 0 {
		size = align(size, chunkIndexSize) + chunks*chunkIndexSize
	}
	return size
}

// maxChunkBits keeps chunks at 1 GiB, within what every reader's 32-bit shifts
// can take.
const maxChunkBits = 30

// chunkBits is log2 of the chunk size of a file on an extra device: one chunk
// where that can be.
func (l *Layout) chunkBits(in *Inode) uint8 {
	bits := l.opts.BlockBits
	for bits < maxChunkBits && in.Size > 1<<bits {
		bits++
	}
	return bits
}

// chunks is the number of chunk indexes: 0 for files that are not chunk-based.
func (l *Layout) chunks(in *Inode) int64 {
	if in.Type() != TypeRegular || in.Data.Device == 0 || in.Size == 0 {
		return 0
	}
	return (in.Size-1)>>l.chunkBits(in) + 1
}

package erofs

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"path"
	"slices"
	"testing"
)

// image is bytes that a layout was written to. Every block may be written once,
// the head (block 0 and what the device table takes) again by every layer.
type image struct {
	bytes   []byte
	written map[int64]bool
}

func (m *image) WriteAt(p []byte, off int64) (int, error) {
	if end := off + int64(len(p)); end > int64(len(m.bytes)) {
		m.bytes = append(m.bytes, make([]byte, end-int64(len(m.bytes)))...)
	}
	if m.written == nil {
		m.written = map[int64]bool{}
	}
	for at := off; at < off+int64(len(p)); at += 512 {
		if m.written[at] {
			return 0, fmt.Errorf("sector at %d written twice", at)
		}
		m.written[at] = at > 0
	}
	if off%512 != 0 || len(p)%512 != 0 {
		return 0, fmt.Errorf("write of %d bytes at %d", len(p), off)
	}
	return copy(m.bytes[off:], p), nil
}

// reader is an independent reading of the format, for metadata only.
type reader struct {
	t         *testing.T
	b         []byte
	blockSize int
	meta      int
	seen      map[string]string
}

// readImage describes every path of an image. It insists on all that the
// kernel's lookups rely on.
func readImage(t *testing.T, b []byte) map[string]string {
	t.Helper()
	le := binary.LittleEndian
	super := b[1024:]
	if le.Uint32(super) != 0xE0F5E1E2 {
		t.Fatalf("magic %#x", le.Uint32(super))
	}
	r := &reader{t: t, b: b, blockSize: 1 << super[12], seen: map[string]string{}}
	r.meta = int(le.Uint32(super[40:])) * r.blockSize
	sum := slices.Clone(super[:max(r.blockSize-1024, min(r.blockSize, 1024))])
	clear(sum[4:8])
	if got := ^crc32.Checksum(sum, crc32.MakeTable(crc32.Castagnoli)); got != le.Uint32(super[4:]) {
		t.Errorf("superblock checksum %#x, want %#x", le.Uint32(super[4:]), got)
	}
	if got := int(le.Uint32(super[36:])) * r.blockSize; got < len(b) {
		t.Errorf("superblock says %d bytes, image has %d", got, len(b))
	}
	root := uint64(le.Uint16(super[14:]))
	r.walk("/", root, root)
	return r.seen
}

// at reads beyond the end of the image, too: blocks of zeros are not written.
func (r *reader) at(off, n int) []byte {
	p := make([]byte, n)
	if off < len(r.b) {
		copy(p, r.b[off:])
	}
	return p
}

func (r *reader) walk(name string, nid, parent uint64) {
	le := binary.LittleEndian
	off := r.meta + int(nid)*32
	h := r.at(off, 64)
	format := le.Uint16(h)
	in := Inode{Mode: uint32(le.Uint16(h[4:]))}
	var size, links, head int
	if format&1 == 0 {
		size, links, head = int(le.Uint32(h[8:])), int(le.Uint16(h[6:])), 32
		in.UID, in.GID = uint32(le.Uint16(h[24:])), uint32(le.Uint16(h[26:]))
	} else {
		size, links, head = int(le.Uint64(h[8:])), int(le.Uint32(h[44:])), 64
		in.UID, in.GID = le.Uint32(h[24:]), le.Uint32(h[28:])
		in.Mtime, in.Nsec = int64(le.Uint64(h[32:])), le.Uint32(h[40:])
	}
	if off/r.blockSize != (off+head-1)/r.blockSize {
		r.t.Errorf("%s: inode crosses a block", name)
	}
	union := le.Uint32(h[16:])
	end := off + head
	if count := int(le.Uint16(h[2:])); count > 0 {
		n := (count-1)*4 + 12
		in.Xattrs = r.xattrs(r.at(end, n))
		end += n
	}
	switch in.Type() {
	case TypeDir, TypeSymlink:
		content := r.content(name, format>>1&7, int(union), size, end)
		if in.Type() == TypeSymlink {
			in.Target = string(content)
			break
		}
		defer r.dir(name, content, nid, parent)
	case TypeChar, TypeBlock:
		in.Major, in.Minor = union>>8&0xfff, union&0xff|union>>12&0xfff00
	case TypeRegular:
		in.Size, in.Data.Block = int64(size), uint64(union)
		if format>>1&7 == 4 {
			index := r.at((end+7)&^7, 8)
			in.Data = Extent{Device: le.Uint16(index[2:]), Block: uint64(le.Uint32(index[4:]))}
		}
	}
	r.seen[name] = describe(&in, links)
}

func (r *reader) content(name string, layout uint16, block, size, inline int) []byte {
	whole := size / r.blockSize * r.blockSize
	if layout == 0 {
		return r.at(block*r.blockSize, size)
	}
	if layout != 2 || size == whole {
		r.t.Fatalf("%s: layout %d, %d bytes", name, layout, size)
	}
	if inline/r.blockSize != (inline+size-whole-1)/r.blockSize {
		r.t.Errorf("%s: inline tail of %d bytes at %d crosses a block", name, size-whole, inline)
	}
	return append(r.at(block*r.blockSize, whole), r.at(inline, size-whole)...)
}

func (r *reader) xattrs(b []byte) Xattrs {
	prefixes := map[byte]string{1: "user.", 2: aclAccess, 3: aclDefault, 4: "trusted.", 6: "security."}
	var found Xattrs
	for b = b[12:]; len(b) > 0; {
		name, value := int(b[0]), int(binary.LittleEndian.Uint16(b[2:]))
		found = append(found, Xattr{prefixes[b[1]] + string(b[4:4+name]), string(b[4+name : 4+name+value])})
		b = b[(4+name+value+3)&^3:]
	}
	return found
}

func (r *reader) dir(name string, content []byte, nid, parent uint64) {
	last := ""
	for len(content) > 0 {
		block := content[:min(r.blockSize, len(content))]
		content = content[len(block):]
		count := int(binary.LittleEndian.Uint16(block[8:])) / 12
		for i := range count {
			entry := block[i*12:]
			from, to := int(binary.LittleEndian.Uint16(entry[8:])), len(block)
			if i+1 < count {
				to = int(binary.LittleEndian.Uint16(entry[20:]))
			}
			child := string(bytes.TrimRight(block[from:to], "\x00"))
			if child <= last {
				r.t.Errorf("%s: %q after %q", name, child, last)
			}
			last = child
			target := binary.LittleEndian.Uint64(entry)
			switch child {
			case ".":
				if target != nid {
					r.t.Errorf("%s: . is %d, not %d", name, target, nid)
				}
			case "..":
				if target != parent {
					r.t.Errorf("%s: .. is %d, not %d", name, target, parent)
				}
			default:
				r.walk(path.Join(name, child), target, nid)
			}
		}
	}
}

// describe spells all that an image says of an inode.
func describe(in *Inode, links int) string {
	s := fmt.Sprintf("%o %d:%d %d.%09d links %d", in.Mode, in.UID, in.GID, in.Mtime, in.Nsec, links)
	switch in.Type() {
	case TypeRegular:
		s += fmt.Sprintf(" size %d", in.Size)
		if in.Size > 0 {
			s += fmt.Sprintf(" at %d/%d", in.Data.Device, in.Data.Block)
		}
	case TypeSymlink:
		s += " -> " + in.Target
	case TypeChar, TypeBlock:
		s += fmt.Sprintf(" device %d:%d", in.Major, in.Minor)
	}
	for _, a := range in.Xattrs {
		s += fmt.Sprintf(" %s=%q", a.Name, a.Value)
	}
	return s
}

// listTree describes every path of a tree, with links counted anew.
func listTree(t *Tree) map[string]string {
	links := map[*Inode]int{}
	paths := map[string]*Inode{}
	var walk func(name string, in *Inode)
	walk = func(name string, in *Inode) {
		paths[name] = in
		links[in]++
		if in.IsDir() {
			links[in]++
		}
		for child, c := range in.children {
			if c.IsDir() {
				links[in]++
			}
			walk(path.Join(name, child), c)
		}
	}
	walk("/", t.root)
	listed := map[string]string{}
	for name, in := range paths {
		listed[name] = describe(in, links[in])
	}
	return listed
}

// writeTree lays a tree out from its first free block on and reads it back.
func writeTree(t *testing.T, tree *Tree, opts LayoutOptions) *image {
	t.Helper()
	if opts.BlockBits == 0 {
		opts.BlockBits = 12
	}
	opts.Start = max(opts.Start, HeadBlocks(opts.BlockBits, len(opts.Devices)))
	layout, err := tree.Layout(opts)
	if err != nil {
		t.Fatal(err)
	}
	img := &image{}
	if err := layout.Write(t.Context(), img); err != nil {
		t.Fatal(err)
	}
	got, want := readImage(t, img.bytes), listTree(tree)
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if got[name] != want[name] {
			t.Errorf("%.300q:\n got %.300s\nwant %.300s", name, got[name], want[name])
		}
	}
	if len(got) != len(want) {
		t.Errorf("image has %d paths, tree %d", len(got), len(want))
	}
	return img
}

var _ io.WriterAt = (*image)(nil)

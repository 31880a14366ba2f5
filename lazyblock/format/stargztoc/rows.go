package stargztoc

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"path"
	"strings"
	"time"

	"github.com/referee-cri/referee/lazyblock/erofs"
	"github.com/referee-cri/referee/lazyblock/format/toc"
	"github.com/referee-cri/referee/lazyblock/tarinode"
)

// Names of files in the root that are marks for readers and no content.
const (
	prefetchLandmark   = "/.prefetch.landmark"    // what is stored before it is wanted first
	noPrefetchLandmark = "/.no.prefetch.landmark" // nothing is
)

// Table is a table of contents in memory.
type Table struct {
	entries  blocks
	chunks   []chunk
	size     int64 // of all files
	landmark int64 // where the prefetch landmark is stored: a start reads what is before it; 0: there is none
	boundary int64 // where the other landmark is stored; 0: there is none
}

// blocks are entries in pieces: they are large, and never copied.
type blocks [][]toc.Entry

const blockEntries = 1024

func (b *blocks) add(entry toc.Entry) {
	last := len(*b) - 1
	if last < 0 || len((*b)[last]) == blockEntries {
		*b = append(*b, make([]toc.Entry, 0, blockEntries))
		last++
	}
	(*b)[last] = append((*b)[last], entry)
}

// all yields each entry once and lets go of those behind it.
func (b blocks) all(yield func(toc.Entry, error) bool) {
	for i, block := range b {
		b[i] = nil
		for _, entry := range block {
			if !yield(entry, nil) {
				return
			}
		}
	}
}

// chunk is a part of a file that is stored by itself, or with few others.
type chunk struct {
	at, size int64
	off, end int64 // stored; an end of 0: up to what is stored next
	inner    int64 // expanded bytes before it
	digest   [sha256.Size]byte
}

// add takes one row.
func (p *parser) add(r *row) error {
	if r.Type == "chunk" {
		return p.addChunk(r)
	}
	if err := p.finishFile(); err != nil {
		return err
	}
	in, err := inode(r)
	if err != nil {
		return err
	}
	entry := toc.Entry{Name: r.Name, Inode: in, At: p.table.size}
	if r.Type == "hardlink" {
		if entry.Link = r.LinkName; entry.Link == "" {
			return errors.New("a hard link without a target")
		}
	}
	hidden := r.Type == "reg" && p.markedBy(r)
	if !hidden {
		p.table.entries.add(entry)
	}
	if r.Type != "reg" || r.Size == 0 {
		return nil
	}
	if p.table.size+r.Size < p.table.size {
		return fmt.Errorf("files of more than %d bytes", int64(math.MaxInt64))
	}
	p.file = openFile{name: r.Name, size: r.Size, hidden: hidden}
	return p.addChunk(r)
}

// markedBy notes where a landmark is and reports whether r is one.
func (p *parser) markedBy(r *row) bool {
	switch path.Clean("/" + r.Name) {
	case prefetchLandmark:
		p.table.landmark = r.Offset
	case noPrefetchLandmark:
		p.table.boundary = r.Offset
	default:
		return false
	}
	return true
}

// addChunk takes the part of the open file that a row describes.
func (p *parser) addChunk(r *row) error {
	f := &p.file
	left := f.size - f.covered
	size := r.ChunkSize
	if size == 0 || size > left {
		size = left
	}
	switch {
	case left == 0:
		return errors.New("a chunk that belongs to no file")
	case r.ChunkOffset != f.covered:
		return fmt.Errorf("chunk begins at byte %d of the file, want %d", r.ChunkOffset, f.covered)
	case size < 0:
		return fmt.Errorf("chunk of %d bytes", r.ChunkSize)
	}
	whole := size == f.size
	f.covered += size
	if f.hidden {
		return nil
	}
	at := p.table.size
	p.table.size += size
	if r.ChunkType == "zeros" {
		return nil // what no chunk covers reads as zeros
	}
	c := chunk{at: at, size: size, off: r.Offset, end: r.EndOffset, inner: r.InnerOffset}
	if err := c.check(r, whole); err != nil {
		return err
	}
	p.table.chunks = append(p.table.chunks, c)
	return nil
}

// maxInner bounds how much is expanded to get at a chunk behind others.
const maxInner = 256 << 20

// check completes c from its row. whole says that c is all of a file.
func (c *chunk) check(r *row, whole bool) (err error) {
	if r.ChunkType != "" {
		return fmt.Errorf("chunk of unknown type %.64q", r.ChunkType)
	}
	if c.off < 0 || c.end < 0 || c.end > 0 && c.end <= c.off || c.inner < 0 || c.inner > maxInner {
		return fmt.Errorf("chunk stored from %d to %d, behind %d bytes", c.off, c.end, c.inner)
	}
	sum := r.ChunkDigest
	if sum == "" && whole {
		sum = r.Digest
	}
	if sum == "" {
		return errors.New("chunk without a digest")
	}
	c.digest, err = parseDigest(sum)
	return err
}

// finishFile makes sure that the open file is complete.
func (p *parser) finishFile() error {
	if f := p.file; f.covered != f.size {
		return fmt.Errorf("%d bytes of %.256q of %d are in chunks", f.covered, f.name, f.size)
	}
	p.file = openFile{}
	return nil
}

func parseDigest(s string) (sum [sha256.Size]byte, err error) {
	encoded, found := strings.CutPrefix(s, "sha256:")
	if !found || len(encoded) != 2*len(sum) {
		return sum, fmt.Errorf("digest %.128q is not of sha256", s)
	}
	if _, err := hex.Decode(sum[:], []byte(encoded)); err != nil {
		return sum, fmt.Errorf("digest %.128q: %w", s, err)
	}
	return sum, nil
}

// modes are the file types of rows.
var modes = map[string]uint32{
	"reg": erofs.TypeRegular, "hardlink": erofs.TypeRegular, "dir": erofs.TypeDir, "symlink": erofs.TypeSymlink,
	"char": erofs.TypeChar, "block": erofs.TypeBlock, "fifo": erofs.TypeFIFO,
}

// inode is the file that a row describes. Type bits in its mode are ignored: some
// writers set them.
func inode(r *row) (erofs.Inode, error) {
	var in erofs.Inode
	var known bool
	if in.Mode, known = modes[r.Type]; !known {
		return in, fmt.Errorf("unknown type %.64q", r.Type)
	}
	for _, n := range [...]int64{r.UID, r.GID, r.DevMajor, r.DevMinor} {
		if n < 0 || n > math.MaxUint32 {
			return in, fmt.Errorf("owner %d:%d, device %d:%d", r.UID, r.GID, r.DevMajor, r.DevMinor)
		}
	}
	if r.Size < 0 {
		return in, fmt.Errorf("size %d", r.Size)
	}
	in.Mode |= uint32(r.Mode) & 0o7777
	in.UID, in.GID = uint32(r.UID), uint32(r.GID)
	in.Major, in.Minor = uint32(r.DevMajor), uint32(r.DevMinor)
	switch r.Type {
	case "reg":
		in.Size = r.Size
	case "symlink":
		in.Target = r.LinkName
	}
	if r.ModTime != "" {
		t, err := time.Parse(time.RFC3339Nano, r.ModTime)
		if err != nil {
			return in, fmt.Errorf("modtime: %w", err)
		}
		in.Mtime, in.Nsec = tarinode.Mtime(t)
	}
	if len(r.Xattrs) > 0 {
		attributes := make(map[string]string, len(r.Xattrs))
		for name, value := range r.Xattrs {
			attributes[name] = string(value)
		}
		in.Xattrs = tarinode.Xattrs(attributes)
	}
	return in, nil
}

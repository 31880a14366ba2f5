package soci

import (
	"crypto/sha256"
	"encoding/hex"
	"iter"
	"math"
	"path"
	"strings"
	"time"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/lazyblock/erofs"
	"github.com/referee-cri/referee/lazyblock/format/span"
	"github.com/referee-cri/referee/lazyblock/format/toc"
	"github.com/referee-cri/referee/lazyblock/tarinode"
)

// How a layer is compressed.
const (
	algorithmGzip         = 1
	algorithmUncompressed = 2
)

// ztoc is a decoded table of contents, but for its files.
type ztoc struct {
	compressed   int64 // length of the layer
	uncompressed int64 // of its tar, as far as a tar reader reads it
	algorithm    int8
	checkpoints  []byte       // the zinfo
	digests      span.Digests // of the spans, as they are stored

	message []byte
}

// Fields of the tables, by their number in soci-snapshotter's schema.
const (
	ztocCompressedSize   = 2
	ztocUncompressedSize = 3
	ztocTOC              = 4
	ztocCompressionInfo  = 5

	tocMetadata = 0

	infoAlgorithm   = 0
	infoMaxSpanID   = 1
	infoSpanDigests = 2
	infoCheckpoints = 3

	fileName     = 0
	fileType     = 1
	fileOffset   = 2
	fileSize     = 3
	fileLinkname = 4
	fileMode     = 5
	fileUID      = 6
	fileGID      = 7
	fileModTime  = 10
	fileDevMajor = 11
	fileDevMinor = 12
	fileRecords  = 13

	recordKey   = 0
	recordValue = 1
)

// sparseRecord begins the PAX records of sparse files (GNU tar).
const sparseRecord = "GNU.sparse."

// parseZtoc decodes a table and checks what can be checked without its zinfo.
func parseZtoc(message []byte) (*ztoc, error) {
	f, root := newFlat(message)
	info := root.sub(ztocCompressionInfo)
	z := &ztoc{
		compressed:   root.int64(ztocCompressedSize),
		uncompressed: root.int64(ztocUncompressedSize),
		algorithm:    info.int8(infoAlgorithm, algorithmGzip),
		checkpoints:  info.vector(infoCheckpoints, 1).bytes(),
		message:      message,
	}
	maxSpan := int32(info.uint32(infoMaxSpanID))
	texts := info.vector(infoSpanDigests, 4)
	if f.err != nil {
		return nil, f.err
	}
	if z.compressed <= 0 || z.uncompressed < 0 {
		return nil, reason.Errorf(reason.FormatCorrupt, "table of contents of a layer of %d bytes that are %d uncompressed", z.compressed, z.uncompressed)
	}
	if int64(texts.n) != int64(maxSpan)+1 {
		return nil, reason.Errorf(reason.FormatCorrupt, "table of contents with %d digests for the spans 0 to %d", texts.n, maxSpan)
	}
	z.digests = make(span.Digests, texts.n)
	for i := range z.digests {
		text := texts.string(i)
		if f.err != nil {
			return nil, f.err
		}
		encoded, ok := strings.CutPrefix(text, "sha256:")
		if !ok || len(encoded) != hex.EncodedLen(sha256.Size) {
			return nil, reason.Errorf(reason.FormatCorrupt, "span %d has the digest %.80q", i, text)
		}
		if _, err := hex.Decode(z.digests[i][:], []byte(encoded)); err != nil {
			return nil, reason.Errorf(reason.FormatCorrupt, "span %d has the digest %.80q", i, text)
		}
	}
	return z, nil
}

// entries yields the files in the order of the tar.
func (z *ztoc) entries() iter.Seq2[toc.Entry, error] {
	return func(yield func(toc.Entry, error) bool) {
		f, root := newFlat(z.message)
		files := root.sub(ztocTOC).vector(tocMetadata, 4)
		for i := 0; i < files.n && f.err == nil; i++ {
			entry, err := z.entry(files.table(i))
			if err == nil {
				err = f.err
			}
			if !yield(entry, err) || err != nil {
				return
			}
		}
		if f.err != nil {
			yield(toc.Entry{}, f.err)
		}
	}
}

// entry decodes one file.
func (z *ztoc) entry(t table) (toc.Entry, error) {
	entry := toc.Entry{Name: t.string(fileName)}
	kind, link := t.string(fileType), t.string(fileLinkname)
	in := &entry.Inode
	in.Mode = uint32(t.int64(fileMode)) & 0o7777
	in.UID, in.GID = t.uint32(fileUID), t.uint32(fileGID)
	switch kind {
	case "reg":
		in.Mode |= erofs.TypeRegular
		in.Size, entry.At = t.int64(fileSize), t.int64(fileOffset)
	case "hardlink":
		in.Mode |= erofs.TypeRegular
		entry.Link = path.Clean("/" + link)
	case "symlink":
		in.Mode |= erofs.TypeSymlink
		in.Target = link
	case "dir":
		in.Mode |= erofs.TypeDir
	case "fifo":
		in.Mode |= erofs.TypeFIFO
	case "char", "block":
		in.Mode |= erofs.TypeChar
		if kind == "block" {
			in.Mode = in.Mode&^erofs.TypeMask | erofs.TypeBlock
		}
		major, minor := t.int64(fileDevMajor), t.int64(fileDevMinor)
		if major < 0 || minor < 0 || major > math.MaxUint32 || minor > math.MaxUint32 {
			return entry, corruptFile(entry.Name, "device %d:%d", major, minor)
		}
		in.Major, in.Minor = uint32(major), uint32(minor)
	default:
		return entry, corruptFile(entry.Name, "type %.20q", kind)
	}
	modified, err := time.Parse(time.RFC3339Nano, t.string(fileModTime))
	if err != nil {
		return entry, corruptFile(entry.Name, "time: %w", err)
	}
	in.Mtime, in.Nsec = tarinode.Mtime(modified)
	in.Xattrs, err = z.xattrs(entry.Name, t.vector(fileRecords, 4))
	return entry, err
}

// xattrs picks the extended attributes from a file's PAX records. Sparse files are
// refused: the table does not tell where their pieces are.
func (z *ztoc) xattrs(name string, records vector) (erofs.Xattrs, error) {
	if records.n == 0 {
		return nil, nil
	}
	pax := make(map[string]string)
	for i := 0; i < records.n && records.f.err == nil; i++ {
		record := records.table(i)
		key := record.string(recordKey)
		if strings.HasPrefix(key, sparseRecord) {
			return nil, corruptFile(name, "it is sparse, and the table does not tell how")
		}
		pax[key] = record.string(recordValue)
	}
	return tarinode.PAXXattrs(pax), nil
}

func corruptFile(name, format string, args ...any) error {
	return reason.Errorf(reason.FormatCorrupt, "file %.256q: "+format, append([]any{name}, args...)...)
}

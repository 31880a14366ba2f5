package plainlayer

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/lazyblock/format/gzindex"
	"github.com/referee-cri/referee/lazyblock/format/toc"
	"github.com/referee-cri/referee/lazyblock/tarinode"
)

// sparseRecord begins the PAX records of sparse files (GNU tar).
const sparseRecord = "GNU.sparse."

// Magic numbers of compressions (RFC 1952, RFC 8878).
var (
	gzipMagic = []byte{0x1f, 0x8b}
	zstdMagic = []byte{0x28, 0xb5, 0x2f, 0xfd}
)

// index reads all of a layer of size bytes.
func index(stored io.Reader, size int64) (*layer, error) {
	head := make([]byte, len(zstdMagic))
	n, err := io.ReadFull(stored, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return nil, err
	}
	stored = io.MultiReader(bytes.NewReader(head[:n]), stored)
	l := &layer{}
	sums := &summer{}
	switch {
	case bytes.HasPrefix(head, gzipMagic):
		err = l.indexGzip(stored, size, sums)
	case bytes.Equal(head, zstdMagic), isSkippable(head):
		err = l.indexZstd(stored, sums)
	default:
		err = l.readTar(stored, sums)
	}
	if err != nil {
		return nil, err
	}
	l.sums = sums.finish()
	return l, nil
}

// isSkippable reports whether a zstd file may begin so (RFC 8878, section 3.1.2).
func isSkippable(head []byte) bool {
	return len(head) == 4 && head[0]&0xf0 == 0x50 && bytes.Equal(head[1:], []byte{0x2a, 0x4d, 0x18})
}

func (l *layer) indexGzip(stored io.Reader, size int64, sums *summer) error {
	builder := gzindex.NewBuilder(spanSize)
	inflated := gzindex.NewReader(stored, func(at gzindex.Checkpoint, window []byte) error {
		taken, err := builder.Take(at, window)
		if taken {
			sums.cut(at.Out)
		}
		return err
	})
	if err := l.readTar(inflated, sums); err != nil {
		if errors.Is(err, gzindex.ErrCorrupt) {
			err = reason.Wrap(reason.FormatCorrupt, err)
		}
		return err
	}
	var err error
	if l.gzip, err = builder.Index(size, l.size); err != nil {
		return reason.Wrap(reason.FormatCorrupt, err)
	}
	return nil
}

func (l *layer) indexZstd(stored io.Reader, sums *summer) error {
	frames, err := newFrames(stored, sums.cut)
	if err != nil {
		return err
	}
	err = l.readTar(frames, sums)
	l.zstd = frames
	return err
}

// readTar reads entries, and what follows them, to the end of r.
func (l *layer) readTar(r io.Reader, sums *summer) error {
	counted := &counter{r: r, sums: sums}
	for tr := tar.NewReader(counted); ; {
		header, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return tarError(counted, err)
		}
		if header.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		entry, err := entryOf(header, counted.n)
		if err != nil {
			return err
		}
		if len(l.entries) == maxEntries {
			return reason.Errorf(reason.NoMatch, "it has no table and more than %d files", maxEntries)
		}
		l.entries = append(l.entries, entry)
	}
	if _, err := io.Copy(io.Discard, counted); err != nil {
		return err
	}
	l.size = counted.n
	return nil
}

// tarError tells who is to blame: those whose error came up, or the tar.
func tarError(r *counter, err error) error {
	if r.err != nil && !errors.Is(r.err, io.EOF) {
		return r.err
	}
	return reason.Errorf(reason.FormatCorrupt, "read tar header: %w", err)
}

// entryOf is the entry of a header whose data begins at off.
func entryOf(header *tar.Header, off int64) (toc.Entry, error) {
	in, err := tarinode.Of(header)
	if err != nil {
		return toc.Entry{}, reason.Errorf(reason.FormatCorrupt, "tar entry %.256q: %w", header.Name, err)
	}
	if header.Typeflag == tar.TypeGNUSparse || slices.ContainsFunc(keys(header.PAXRecords), isSparse) {
		return toc.Entry{}, reason.Errorf(reason.NoMatch, "it has no table, and %.256q is sparse", header.Name)
	}
	entry := toc.Entry{Name: header.Name, Inode: in}
	switch header.Typeflag {
	case tar.TypeLink:
		entry.Link = header.Linkname
	case tar.TypeReg, tar.TypeCont:
		entry.Inode.Size, entry.At = header.Size, off
	}
	return entry, nil
}

func isSparse(record string) bool { return strings.HasPrefix(record, sparseRecord) }

func keys(records map[string]string) []string {
	names := make([]string, 0, len(records))
	for name := range records {
		names = append(names, name)
	}
	return names
}

// counter counts and sums what is read, up to maxTar.
type counter struct {
	r    io.Reader
	n    int64
	err  error
	sums *summer
}

func (c *counter) Read(p []byte) (n int, err error) {
	n, err = c.r.Read(p)
	c.sums.write(p[:n])
	if c.n += int64(n); c.n > maxTar && err == nil {
		err = reason.Errorf(reason.NoMatch, "it has no table and inflates to more than %d bytes", maxTar)
	}
	if err != nil {
		c.err = err
	}
	return n, err
}

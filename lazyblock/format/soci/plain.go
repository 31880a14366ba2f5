package soci

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
	"strings"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/lazyblock"
	"github.com/referee-cri/referee/lazyblock/format/gzindex"
	"github.com/referee-cri/referee/lazyblock/format/span"
	"github.com/referee-cri/referee/lazyblock/format/toc"
	"github.com/referee-cri/referee/lazyblock/tarinode"
)

// Bounds on a layer without a table, which is read to its end before anything
// starts. Writers leave out layers below 10 MiB.
const (
	maxPlain        = 64 << 20 // of all such layers of an image, as they are stored
	maxPlainTar     = 1 << 30  // of one, inflated
	maxPlainEntries = 1 << 18  // of one
	plainSpan       = 1 << 20
)

// plain is what was learned of a layer without a table.
type plain struct {
	entries []toc.Entry
	index   *gzindex.Index // nil: it is not compressed
	size    int64          // of the tar
	sums    digests        // of the spans, inflated
}

// openPlain reads a layer to its end, compares it with its digest, and indexes it.
// Wrong bytes are dropped from the cache below and read once more.
func openPlain(ctx context.Context, blob lazyblock.FormBlob, memory *span.Memory) (toc.Layer, error) {
	p, err := readPlain(ctx, blob)
	cache, ok := blob.RangeReader.(lazyblock.Invalidator)
	if code := reason.Of(err); ok && (code == reason.FormatCorrupt || code == reason.DigestMismatch) {
		_ = cache.Invalidate(ctx, 0, blob.Size()) // what counts is that they are read anew now
		p, err = readPlain(ctx, blob)
	}
	if err != nil {
		return toc.Layer{}, err
	}
	content, err := p.content(blob.RangeReader, memory)
	if err != nil {
		return toc.Layer{}, err
	}
	return toc.Layer{Entries: p.all, Content: content}, nil
}

func (p *plain) all(yield func(toc.Entry, error) bool) {
	for _, entry := range p.entries {
		if !yield(entry, nil) {
			return
		}
	}
}

// content reads the layer's tar, span by span, each compared with what was read first.
func (p *plain) content(blob lazyblock.RangeReader, memory *span.Memory) (*span.Reader, error) {
	if p.index != nil {
		return p.index.Content(blob, gzindex.ContentOptions{Inflated: p.sums.verify, Memory: memory})
	}
	spans := make([]span.Span, len(p.sums))
	for i := range spans {
		at := int64(i) * plainSpan
		n := min(plainSpan, p.size-at)
		spans[i] = span.Span{At: at, Size: n, Off: at, Stored: n}
	}
	return span.New(blob, spans, p.sums.copy, span.Options{Memory: memory})
}

func readPlain(ctx context.Context, blob lazyblock.FormBlob) (*plain, error) {
	want := blob.Descriptor.Digest
	if err := want.Validate(); err != nil {
		return nil, reason.Errorf(reason.ArtifactInvalid, "digest %q: %w", want, err)
	}
	verifier := want.Verifier()
	stored := io.TeeReader(&forward{ctx: ctx, r: blob}, verifier)
	p, err := indexPlain(stored, blob.Size())
	if err != nil {
		return nil, err
	}
	if !verifier.Verified() {
		return nil, reason.Errorf(reason.DigestMismatch, "its bytes do not hash to %s", want)
	}
	return p, nil
}

// Magic numbers of compressions (RFC 1952, RFC 8878).
var (
	gzipMagic = []byte{0x1f, 0x8b}
	zstdMagic = []byte{0x28, 0xb5, 0x2f, 0xfd}
)

// indexPlain reads all of a layer of size bytes.
func indexPlain(stored io.Reader, size int64) (*plain, error) {
	head := make([]byte, len(zstdMagic))
	n, err := io.ReadFull(stored, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return nil, err
	}
	stored = io.MultiReader(bytes.NewReader(head[:n]), stored)
	p := &plain{}
	sums := &summer{}
	if !bytes.HasPrefix(head, gzipMagic) {
		if bytes.Equal(head, zstdMagic) {
			return nil, reason.Errorf(reason.NoMatch, "it is compressed with zstd and has no table")
		}
		if err := p.readTar(stored, sums); err != nil {
			return nil, err
		}
		p.sums = sums.finish()
		return p, nil
	}
	builder := gzindex.NewBuilder(plainSpan)
	inflated := gzindex.NewReader(stored, func(at gzindex.Checkpoint, window []byte) error {
		taken, err := builder.Take(at, window)
		if taken {
			sums.cut(at.Out)
		}
		return err
	})
	if err := p.readTar(inflated, sums); err != nil {
		if errors.Is(err, gzindex.ErrCorrupt) {
			err = reason.Wrap(reason.FormatCorrupt, err)
		}
		return nil, err
	}
	p.sums = sums.finish()
	if p.index, err = builder.Index(size, p.size); err != nil {
		return nil, reason.Wrap(reason.FormatCorrupt, err)
	}
	return p, nil
}

// readTar reads entries, and what follows them, to the end of r.
func (p *plain) readTar(r io.Reader, sums *summer) error {
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
		entry, err := plainEntry(header, counted.n)
		if err != nil {
			return err
		}
		if len(p.entries) == maxPlainEntries {
			return reason.Errorf(reason.NoMatch, "it has no table and more than %d files", maxPlainEntries)
		}
		p.entries = append(p.entries, entry)
	}
	if _, err := io.Copy(io.Discard, counted); err != nil {
		return err
	}
	p.size = counted.n
	return nil
}

// tarError tells who is to blame: those whose error came up, or the tar.
func tarError(r *counter, err error) error {
	if r.err != nil && !errors.Is(r.err, io.EOF) {
		return r.err
	}
	return reason.Errorf(reason.FormatCorrupt, "read tar header: %w", err)
}

// plainEntry is the entry of a header whose data begins at off.
func plainEntry(header *tar.Header, off int64) (toc.Entry, error) {
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

// counter counts and sums what is read, up to maxPlainTar.
type counter struct {
	r    io.Reader
	n    int64
	err  error
	sums *summer
}

func (c *counter) Read(p []byte) (n int, err error) {
	n, err = c.r.Read(p)
	c.sums.write(p[:n])
	if c.n += int64(n); c.n > maxPlainTar && err == nil {
		err = reason.Errorf(reason.NoMatch, "it has no table and inflates to more than %d bytes", maxPlainTar)
	}
	if err != nil {
		c.err = err
	}
	return n, err
}

// summer hashes spans of a stream, which begin where they are cut or, where nobody
// cuts, every plainSpan bytes.
type summer struct {
	cuts []int64 // where spans begin, as far as that is known
	at   int64
	hash hash.Hash
	sums digests
}

// cut has a span begin at an offset that has not been written yet.
func (s *summer) cut(at int64) { s.cuts = append(s.cuts, at) }

func (s *summer) write(p []byte) {
	for len(p) > 0 {
		if s.hash == nil {
			s.hash = sha256.New()
		}
		n := len(p)
		if end := s.end(); end > 0 {
			if end == s.at {
				s.close()
				continue
			}
			n = int(min(int64(n), end-s.at))
		}
		_, _ = s.hash.Write(p[:n]) // never fails
		p, s.at = p[n:], s.at+int64(n)
	}
}

// end is where the span in hand ends, 0 where that is not known.
func (s *summer) end() int64 {
	next := len(s.sums) + 1
	switch {
	case len(s.cuts) == 0:
		return int64(next) * plainSpan
	case next < len(s.cuts):
		return s.cuts[next]
	default:
		return 0
	}
}

func (s *summer) close() {
	s.sums = append(s.sums, [sha256.Size]byte(s.hash.Sum(nil)))
	s.hash.Reset()
}

func (s *summer) finish() digests {
	if s.at > 0 {
		s.close()
	}
	return s.sums
}

// forward reads a blob from its beginning. It lives no longer than the call that
// made it.
type forward struct {
	ctx context.Context //nolint:containedctx // bound for the length of one pass
	r   lazyblock.RangeReader
	off int64
}

func (f *forward) Read(p []byte) (int, error) {
	left := f.r.Size() - f.off
	if left <= 0 {
		return 0, io.EOF
	}
	p = p[:min(int64(len(p)), left)]
	n, err := f.r.ReadRange(f.ctx, p, f.off)
	f.off += int64(n)
	if n == len(p) {
		return n, nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = fmt.Errorf("read layer: it ends at %d of %d bytes: %w", f.off, f.r.Size(), io.ErrUnexpectedEOF)
	}
	return n, err
}

package ztoc

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/referee-cri/referee/internal/reason"
)

// Values of the enumeration CompressionAlgorithm of ztoc.fbs.
const (
	algorithmGzip  = 1
	algorithmPlain = 2
)

// table is what a ztoc says.
type table struct {
	compressedSize int64
	plainSize      int64 // up to where a tar reader reads: behind the two blocks of the end mark
	files          []file
	algorithm      int8
	spans          []digest.Digest // of the layer's bytes as they are stored
	checkpoints    []byte
}

// file is one entry of the tar.
type file struct {
	*tar.Header

	kind string
	at   int64 // where its bytes begin in the tar
}

// maxFiles bounds the entries of a layer; the merged trees of readers hold fewer.
const maxFiles = 10 << 20

// list lists the entries of a tar up to its end mark.
func (t *table) list(ctx context.Context, r io.Reader, report func()) error {
	counted := &position{r: r}
	tr := tar.NewReader(counted)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		header, err := tr.Next()
		if errors.Is(err, io.EOF) {
			t.plainSize = counted.at
			return nil
		}
		if err != nil {
			return reason.Errorf(reason.ArtifactInvalid, "read tar header: %w", err)
		}
		if len(t.files) == maxFiles {
			return reason.Errorf(reason.ArtifactInvalid, "more than %d tar entries", maxFiles)
		}
		kind, err := kindOf(header)
		if err != nil {
			return fmt.Errorf("%w: tar entry %.256q: %w", ErrNotIndexed, header.Name, err)
		}
		t.files = append(t.files, file{header, kind, counted.at})
		report()
	}
}

// kindOf spells the type of an entry, and refuses what a reader would get wrong.
func kindOf(header *tar.Header) (string, error) {
	for key := range header.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return "", errors.New("sparse files do not lie in the tar as they are read")
		}
	}
	if header.Uid < 0 || header.Gid < 0 || header.Uid > math.MaxUint32 || header.Gid > math.MaxUint32 {
		return "", fmt.Errorf("owner %d:%d", header.Uid, header.Gid)
	}
	switch header.Typeflag {
	case tar.TypeReg:
		return "reg", nil
	case tar.TypeLink:
		return "hardlink", nil
	case tar.TypeSymlink:
		return "symlink", nil
	case tar.TypeDir:
		return "dir", nil
	case tar.TypeChar:
		return "char", nil
	case tar.TypeBlock:
		return "block", nil
	case tar.TypeFifo:
		return "fifo", nil
	default: // a global header too: readers compute where headers begin
		return "", fmt.Errorf("SOCI has no entries of type %q", header.Typeflag)
	}
}

// modTime spells a time, in UTC, so that the machine's zone does not show. What the
// spelling cannot hold becomes 1970.
func (f *file) modTime() []byte {
	text, err := f.ModTime.UTC().MarshalText()
	if err != nil { // the year has more than four digits
		text, _ = time.Unix(0, 0).UTC().MarshalText() // this one has not
	}
	return text
}

// position counts what is read.
type position struct {
	r  io.Reader
	at int64
}

func (p *position) Read(b []byte) (int, error) {
	n, err := p.r.Read(b)
	p.at += int64(n)
	return n, err
}

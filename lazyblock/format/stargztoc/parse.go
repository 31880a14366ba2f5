package stargztoc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/referee-cri/referee/internal/reason"
)

// MaxBytes bounds a table, in bytes of JSON; the formats have no bound of their own.
const MaxBytes = 512 << 20

const (
	// maxRowBytes bounds one row: attributes of a file are at most 256 KiB in
	// EROFS, and a third more in base64.
	maxRowBytes = 1 << 20
	// maxRows bounds the rows of all layers of an image, as erofs.Limits does files.
	maxRows = 2 << 20

	checkEvery = 1024 // rows between looks at the context
)

// Budget is what the tables of an image's layers may hold together. The zero
// value is a full one. It is safe for concurrent use.
type Budget struct{ rows atomic.Int64 }

func (b *Budget) charge() error {
	if b.rows.Add(1) > maxRows {
		return fmt.Errorf("the layers have more than %d files and chunks", maxRows)
	}
	return nil
}

// row is one element of "entries". Fields that nobody needs are left out: names
// of users, other times, the number of links.
type row struct {
	Name        string            `json:"name"`
	Type        string            `json:"type"`
	Size        int64             `json:"size"`
	ModTime     string            `json:"modtime"`
	LinkName    string            `json:"linkName"`
	Mode        int64             `json:"mode"`
	UID         int64             `json:"uid"`
	GID         int64             `json:"gid"`
	DevMajor    int64             `json:"devMajor"`
	DevMinor    int64             `json:"devMinor"`
	Xattrs      map[string][]byte `json:"xattrs"`
	Digest      string            `json:"digest"`
	Offset      int64             `json:"offset"`
	EndOffset   int64             `json:"endOffset"`
	InnerOffset int64             `json:"innerOffset"`
	ChunkOffset int64             `json:"chunkOffset"`
	ChunkSize   int64             `json:"chunkSize"`
	ChunkDigest string            `json:"chunkDigest"`
	ChunkType   string            `json:"chunkType"`
}

// Parse reads a table up to the end of its JSON. The caller makes sure that r
// ends, and that its bytes are those somebody vouches for. What breaks the format
// gives reason.FormatCorrupt; errors of r stay what they are.
func Parse(ctx context.Context, r io.Reader, budget *Budget) (*Table, error) {
	source := &rationed{r: r, left: maxRowBytes}
	p := &parser{ctx: ctx, source: source, json: json.NewDecoder(source), budget: budget, table: &Table{}}
	err := p.document()
	switch {
	case err == nil:
		return p.table, nil
	case source.err != nil && !errors.Is(source.err, io.EOF):
		return nil, fmt.Errorf("read table of contents: %w", source.err)
	case ctx.Err() != nil:
		return nil, ctx.Err()
	default:
		return nil, reason.Errorf(reason.FormatCorrupt, "table of contents: %w", err)
	}
}

// rationed gives no more than left bytes, so that the decoder cannot be made to
// gather a value of any size, and remembers the error of r.
type rationed struct {
	r    io.Reader
	left int
	err  error
}

func (s *rationed) Read(p []byte) (int, error) {
	if s.left == 0 {
		return 0, fmt.Errorf("a row of more than %d bytes", maxRowBytes)
	}
	n, err := s.r.Read(p[:min(len(p), s.left)])
	s.left -= n
	if err != nil {
		s.err = err
	}
	return n, err
}

// parser reads one document. It lives as long as Parse.
type parser struct {
	ctx    context.Context //nolint:containedctx // of the call that made the parser
	source *rationed
	json   *json.Decoder
	budget *Budget
	table  *Table
	file   openFile
}

// openFile is a regular file whose chunks are being read.
type openFile struct {
	name    string
	size    int64
	covered int64 // bytes of it in chunks so far
	hidden  bool  // a landmark
}

func (p *parser) document() error {
	if err := p.delimiter('{'); err != nil {
		return err
	}
	found := false
	for p.json.More() {
		key, err := p.token()
		if err != nil {
			return err
		}
		switch {
		case key == "entries" && found:
			return errors.New("two lists of entries")
		case key == "entries":
			found = true
			err = p.entries()
		case key == "version":
			var version int
			err = p.json.Decode(&version)
		default:
			var ignored json.RawMessage
			err = p.json.Decode(&ignored)
		}
		if err != nil {
			return err
		}
		p.source.left = maxRowBytes
	}
	if err := p.delimiter('}'); err != nil {
		return err
	}
	if !found {
		return errors.New("no entries")
	}
	return nil
}

func (p *parser) entries() error {
	if err := p.delimiter('['); err != nil {
		return err
	}
	var r row
	for n := 0; p.json.More(); n++ {
		if n%checkEvery == 0 && p.ctx.Err() != nil {
			return p.ctx.Err()
		}
		if err := p.budget.charge(); err != nil {
			return err
		}
		p.source.left = maxRowBytes
		r = row{}
		if err := p.json.Decode(&r); err != nil {
			return fmt.Errorf("row %d: %w", n, err)
		}
		if err := p.add(&r); err != nil {
			return fmt.Errorf("row %d, %.256q: %w", n, r.Name, err)
		}
	}
	if err := p.finishFile(); err != nil {
		return err
	}
	return p.delimiter(']')
}

// token returns the next token; the end of the document is not expected.
func (p *parser) token() (json.Token, error) {
	token, err := p.json.Token()
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return token, err
}

func (p *parser) delimiter(want json.Delim) error {
	token, err := p.token()
	if err != nil {
		return err
	}
	if token != want {
		return fmt.Errorf("found %.64q, want %q", fmt.Sprint(token), want)
	}
	return nil
}

package estargz

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/lazyblock"
	"github.com/referee-cri/referee/lazyblock/format/span"
	"github.com/referee-cri/referee/lazyblock/format/stargztoc"
)

// Annotations of layers.
const (
	// AnnotationTOCDigest is on every layer: the digest of its table, as JSON.
	AnnotationTOCDigest = "containerd.io/snapshot/stargz/toc.digest"
	// AnnotationLayerDigest is on a table that is a blob of its own: the digest of
	// the layer that it belongs to.
	AnnotationLayerDigest = "containerd.io/snapshot/stargz/layer.digest"
)

// ErrTableElsewhere is wrapped by the error about a layer whose table is in a blob
// of its own that the form lacks.
var ErrTableElsewhere = errors.New("the layer's table of contents is in another image")

// Options of Open. The zero value is good.
type Options struct {
	Memory *span.Memory // keeps decoded chunks; nil: one for each layer
}

// Open opens a form as a volume. All layers are opened side by side, each in one
// round trip where its table is of usual size, and one more where it is not.
//
// Bytes that break the format give reason.FormatCorrupt; they are first dropped
// from the cache below and read once more. reason.ArtifactInvalid is for layers
// whose annotation is none. Layers without it are read to their end and compared
// with their digest, as long as they are small: else the error has reason.NoMatch.
func Open(ctx context.Context, form lazyblock.Form, opts Options) (lazyblock.Volume, error) {
	return stargztoc.Open(ctx, form, stargztoc.Format{
		Has: hasTable,
		Table: func(ctx context.Context, layer *lazyblock.FormBlob, budget *stargztoc.Budget) (*stargztoc.Table, int64, error) {
			return readLayer(ctx, layer, form.Tables, budget)
		},
		Expand: expand,
		Memory: opts.Memory,
	})
}

// hasTable reports whether a layer has a table that somebody vouches for.
func hasTable(layer ocispec.Descriptor) bool {
	_, found := layer.Annotations[AnnotationTOCDigest]
	return found && !strings.HasSuffix(layer.MediaType, "zstd") // one dialect of zstd:chunked has it as well
}

// readLayer reads a layer's table and tells where the files' bytes end in its blob.
func readLayer(ctx context.Context, layer *lazyblock.FormBlob, tables []lazyblock.FormBlob, budget *stargztoc.Budget) (*stargztoc.Table, int64, error) {
	want := digest.Digest(layer.Descriptor.Annotations[AnnotationTOCDigest])
	if err := want.Validate(); err != nil {
		return nil, 0, reason.Errorf(reason.ArtifactInvalid, "annotation %s, which vouches for the table of contents: %w", AnnotationTOCDigest, err)
	}
	table, end, suspect, err := readTableOf(ctx, layer, tables, want, budget)
	if reason.Of(err) == reason.FormatCorrupt && forget(ctx, layer.RangeReader, suspect) {
		table, end, _, err = readTableOf(ctx, layer, tables, want, budget)
	}
	return table, end, err
}

// readTableOf is readLayer once. After an error it tells from which byte of the
// layer on it has read.
func readTableOf(ctx context.Context, layer *lazyblock.FormBlob, tables []lazyblock.FormBlob, want digest.Digest, budget *stargztoc.Budget) (table *stargztoc.Table, end, suspect int64, err error) {
	tail, err := readEnding(ctx, layer.RangeReader)
	if err != nil {
		return nil, 0, tail.at, err
	}
	foot, err := parseFooter(tail.tail, layer.Size())
	switch {
	case err != nil:
		return nil, 0, tail.at, reason.Wrap(reason.FormatCorrupt, err)
	case foot.external:
		table, err = readExternal(ctx, layer.Descriptor.Digest, tables, want, budget)
	default:
		table, err = readTable(ctx, tail.section(ctx, foot.toc, layer.Size()-foot.size), want, budget)
	}
	return table, foot.toc, min(tail.at, foot.toc), err
}

// readExternal reads a layer's table from the blob that is for it.
func readExternal(ctx context.Context, layer digest.Digest, tables []lazyblock.FormBlob, want digest.Digest, budget *stargztoc.Budget) (*stargztoc.Table, error) {
	i := slices.IndexFunc(tables, func(blob lazyblock.FormBlob) bool {
		return blob.Descriptor.Annotations[AnnotationLayerDigest] == layer.String()
	})
	if i < 0 {
		return nil, reason.Wrap(reason.ArtifactInvalid, ErrTableElsewhere)
	}
	blob := &tables[i]
	table, err := readTable(ctx, stream(ctx, blob, 0, blob.Size()), want, budget)
	if reason.Of(err) == reason.FormatCorrupt && forget(ctx, blob.RangeReader, 0) {
		table, err = readTable(ctx, stream(ctx, blob, 0, blob.Size()), want, budget)
	}
	return table, err
}

// member is what expanding takes, used again.
type member struct {
	src bytes.Reader
	z   gzip.Reader
}

var members sync.Pool

// expand is stargztoc.Expand for gzip members.
func expand(stored []byte, use func(io.Reader) error) error {
	m, ok := members.Get().(*member)
	if !ok {
		m = new(member)
	}
	defer members.Put(m)
	m.src.Reset(stored)
	defer m.src.Reset(nil)
	if err := m.z.Reset(&m.src); err != nil {
		return fmt.Errorf("gzip: %w", err)
	}
	m.z.Multistream(false) // a chunk lies in one member
	return use(&m.z)
}

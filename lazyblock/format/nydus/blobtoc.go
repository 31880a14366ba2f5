package nydus

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"strings"

	"github.com/referee-cri/referee/lazyblock"
)

// The table of contents at the end of a blob: rows, and behind them the tar header
// that names it, as behind every member of a blob.
const (
	tocRowSize   = 128
	tarHeader    = 512
	maxTOC       = tarHeader + 32*tocRowSize
	memberDigest = "blob.digest"
	memberMeta   = "blob.meta"
)

// How a member is compressed, in its row.
const (
	memberPlain = 1
	memberZstd  = 2
	memberLZ4   = 4
	memberHow   = 0xF
)

// member is a part of a blob.
type member struct {
	how         compression
	sum         [32]byte // SHA-256, uncompressed
	off, stored int64
	size        int64
}

// readTOC reads the members of a blob, nil where it has no table of them. The
// bootstrap has the table's digest.
func readTOC(ctx context.Context, r lazyblock.RangeReader, blob *blobInfo) (map[string]member, error) {
	if blob.features&featureTOC == 0 || blob.tocSize == 0 {
		return nil, nil
	}
	if blob.tocSize < tarHeader || blob.tocSize > min(maxTOC, r.Size()) || (blob.tocSize-tarHeader)%tocRowSize != 0 {
		return nil, corrupt("table of contents of %d bytes", blob.tocSize)
	}
	raw := make([]byte, blob.tocSize)
	if err := lazyblock.ReadFull(ctx, r, raw, r.Size()-blob.tocSize); err != nil {
		return nil, err
	}
	if sum := sha256.Sum256(raw); sum != blob.tocDigest {
		return nil, corrupt("table of contents has the digest %x, want %x", sum, blob.tocDigest)
	}
	members := make(map[string]member)
	le := binary.LittleEndian
	for row := range slices.Chunk(raw[:len(raw)-tarHeader], tocRowSize) {
		m := member{
			sum: [32]byte(row[24:56]), off: int64(le.Uint64(row[56:])),
			stored: int64(le.Uint64(row[64:])), size: int64(le.Uint64(row[72:])),
		}
		switch le.Uint32(row) & memberHow {
		case memberZstd:
			m.how = compressionZstd
		case memberLZ4:
			m.how = compressionLZ4
		case memberPlain:
		default:
			return nil, corrupt("member of a blob compressed in the way %#x", le.Uint32(row))
		}
		members[strings.TrimRight(string(row[8:24]), "\x00")] = m
	}
	return members, nil
}

// maxMember bounds a member that is read whole: the chunks of a blob as they are
// listed in it.
const maxMember = 256 << 20

// read returns a member's content, at most maxMember bytes. Its digest is compared.
func (d *decoder) read(ctx context.Context, r lazyblock.RangeReader, m member) ([]byte, error) {
	content, err := d.expand(ctx, r, m)
	if err != nil {
		return nil, err
	}
	return content, m.verify(content)
}

// verify compares a member's content with its digest.
func (m *member) verify(content []byte) error {
	if sum := sha256.Sum256(content); sum != m.sum {
		return corrupt("it has the digest %x, want %x", sum, m.sum)
	}
	return nil
}

// expand is read without the digest.
func (d *decoder) expand(ctx context.Context, r lazyblock.RangeReader, m member) ([]byte, error) {
	if m.size < 0 || m.size > maxMember || m.stored < 0 || m.stored > maxMember {
		return nil, corrupt("%d bytes stored in %d, more than %d", m.size, m.stored, maxMember)
	}
	// Only what is there is paid for: what is stored first, and of what it claims to
	// expand to no more than can come of it.
	if m.off < 0 || m.off > r.Size()-m.stored || m.size > m.stored*maxRatio {
		return nil, corrupt("%d bytes stored in %d at %d of a blob of %d", m.size, m.stored, m.off, r.Size())
	}
	stored := make([]byte, m.stored)
	if err := lazyblock.ReadFull(ctx, r, stored, m.off); err != nil {
		return nil, err
	}
	content := make([]byte, m.size)
	if err := d.decode(m.how, content, stored); err != nil {
		return nil, corrupt("decode it: %w", err)
	}
	return content, nil
}

// maxRatio is what compression can make of rows that all differ: far less.
const maxRatio = 256

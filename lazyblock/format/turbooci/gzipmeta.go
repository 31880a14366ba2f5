package turbooci

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zlib"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/lazyblock/format/gzindex"
	"github.com/referee-cri/referee/lazyblock/format/overlaybd"
)

// The header of gzip.meta (spec 5.4). Integers are little-endian.
const (
	metaMagic      = "ddgzidx\x00"
	metaHeader     = 333
	metaCRC        = 329 // offset of the CRC of all before it
	metaEntry      = 29
	metaMajor      = 1
	windowsRaw     = 0 // as they are
	windowsZlib    = 1
	maxCheckpoints = 1 << 20 // of 32 KiB at least, so that windows have room in 32 bits
)

// metaHead is a decoded header.
type metaHead struct {
	algorithm    uint8
	entries      int64
	compressed   int64 // length of the gzip file
	length       int64 // of gzip.meta
	uncompressed int64
	tableStart   int64
	tableLength  int64 // as it is stored
}

// parseGzipMeta decodes gzip.meta of a gzip file of size bytes.
func parseGzipMeta(meta []byte, size int64) (*gzindex.Index, error) {
	x, err := parseIndex(meta, size)
	if err != nil {
		return nil, reason.Errorf(reason.FormatCorrupt, "gzip.meta: %w", err)
	}
	return x, nil
}

func parseIndex(meta []byte, size int64) (*gzindex.Index, error) {
	h, err := parseHead(meta)
	if err != nil {
		return nil, err
	}
	if h.compressed != size {
		return nil, fmt.Errorf("it is of a file of %d bytes, this one has %d", h.compressed, size)
	}
	table, err := h.table(meta)
	if err != nil {
		return nil, err
	}
	x := &gzindex.Index{Windows: &gzindex.Windows{}, Compressed: h.compressed, Uncompressed: h.uncompressed}
	windows := meta[:h.tableStart]
	for i := 0; len(table) > 0; i, table = i+1, table[metaEntry:] {
		le := binary.LittleEndian
		c := gzindex.Checkpoint{Out: int64(le.Uint64(table)), In: int64(le.Uint64(table[8:])), Bits: table[24]}
		at, n := int64(le.Uint64(table[16:])), int64(le.Uint32(table[25:]))
		if at < metaHeader || at > h.tableStart || n > h.tableStart-at {
			return nil, fmt.Errorf("window %d is %d bytes at %d, outside %d to %d", i, n, at, metaHeader, h.tableStart)
		}
		if i > 0 && c.Out == h.uncompressed {
			break // nothing but the end is behind it
		}
		x.Checkpoints = append(x.Checkpoints, c)
		if err := addWindow(x.Windows, windows[at:at+n], h.algorithm, c.Out); err != nil {
			return nil, fmt.Errorf("window %d: %w", i, err)
		}
	}
	x.Windows.Done()
	if err := x.Check(); err != nil {
		return nil, err
	}
	return x, nil
}

// addWindow adds a stored window of the output before out.
func addWindow(windows *gzindex.Windows, stored []byte, algorithm uint8, out int64) error {
	switch {
	case out == 0: // nothing is before it, whatever is stored
		return windows.Add(nil)
	case algorithm == windowsZlib:
		return windows.AddZlib(stored)
	case len(stored) != gzindex.WindowSize:
		return fmt.Errorf("%d bytes, want %d", len(stored), gzindex.WindowSize)
	default:
		return windows.Add(stored)
	}
}

func parseHead(meta []byte) (h metaHead, err error) {
	if len(meta) < metaHeader || string(meta[:len(metaMagic)]) != metaMagic {
		return h, fmt.Errorf("%d bytes that begin %.8x", len(meta), meta)
	}
	le := binary.LittleEndian
	if want, got := le.Uint32(meta[metaCRC:]), overlaybd.Checksum(meta[:metaCRC]); want != got {
		return h, fmt.Errorf("header has the CRC %#08x, want %#08x", got, want)
	}
	h = metaHead{
		algorithm:    meta[10],
		entries:      int64(le.Uint64(meta[25:])),
		compressed:   int64(le.Uint64(meta[33:])),
		length:       int64(le.Uint64(meta[41:])),
		uncompressed: int64(le.Uint64(meta[49:])),
		tableStart:   int64(le.Uint64(meta[313:])),
		tableLength:  int64(le.Uint64(meta[321:])),
	}
	window, entry := int32(le.Uint32(meta[17:])), int32(le.Uint32(meta[21:]))
	switch {
	case meta[8] != metaMajor:
		err = fmt.Errorf("version %d, want %d", meta[8], metaMajor)
	case h.algorithm != windowsRaw && h.algorithm != windowsZlib:
		err = fmt.Errorf("compression %d of windows", h.algorithm)
	case window != gzindex.WindowSize || entry != metaEntry:
		err = fmt.Errorf("windows of %d bytes and entries of %d, want %d and %d", window, entry, gzindex.WindowSize, metaEntry)
	case h.entries < 0 || h.entries > maxCheckpoints:
		err = fmt.Errorf("%d checkpoints, want at most %d", h.entries, maxCheckpoints)
	case h.length != int64(len(meta)) || h.tableStart < metaHeader || h.tableStart > h.length || h.tableLength != h.length-h.tableStart:
		err = fmt.Errorf("a table of %d bytes at %d, in %d bytes of which there are %d", h.tableLength, h.tableStart, h.length, len(meta))
	}
	return h, err
}

// table returns the entries.
func (h *metaHead) table(meta []byte) ([]byte, error) {
	stored := meta[h.tableStart:]
	want := h.entries * metaEntry
	if h.algorithm == windowsRaw {
		if int64(len(stored)) != want {
			return nil, fmt.Errorf("%d checkpoints in %d bytes", h.entries, len(stored))
		}
		return stored, nil
	}
	r, err := zlib.NewReader(bytes.NewReader(stored))
	if err != nil {
		return nil, fmt.Errorf("table of checkpoints: %w", err)
	}
	var table bytes.Buffer
	if _, err := io.Copy(&table, io.LimitReader(r, want+1)); err != nil {
		return nil, fmt.Errorf("table of checkpoints: %w", err)
	}
	if int64(table.Len()) != want {
		return nil, errors.New("table of checkpoints has another length than their number says")
	}
	return table.Bytes(), nil
}

package overlaybd

import (
	"context"
	"fmt"

	"github.com/referee-cri/referee/internal/reason"
)

// readLSMT reads header, trailer and index of the LSMT file within l.
func (l *layer) readLSMT(ctx context.Context, ahead *readAhead, limits *openLimits) error {
	if l.size < 2*lsmtHeaderSize {
		return reason.Errorf(reason.FormatCorrupt, "LSMT file of %d bytes", l.size)
	}
	trailerOffset := l.size - lsmtHeaderSize
	// Where the trailer was not read ahead, the index before it was not either.
	if err := ahead.ensure(ctx, l.stored(trailerOffset), lsmtTailGuess); err != nil {
		return fmt.Errorf("read LSMT trailer: %w", err)
	}
	head, tail := make([]byte, lsmtHeaderSize), make([]byte, lsmtHeaderSize)
	if err := scatter(ctx, []piece{{l, 0, head}, {l, trailerOffset, tail}}); err != nil {
		return fmt.Errorf("read LSMT header and trailer: %w", err)
	}
	// The sealed flag of the header is absent in a sealed writable layer.
	if _, err := parseLSMTHeader(head, lsmtIsHeader|lsmtIsData, lsmtIsHeader|lsmtIsData); err != nil {
		return fmt.Errorf("parse LSMT header: %w", err)
	}
	trailer, err := parseLSMTHeader(tail, lsmtIsHeader|lsmtIsData|lsmtSealed, lsmtTrailer)
	if err != nil {
		return fmt.Errorf("parse LSMT trailer: %w", err)
	}
	if err := trailer.checkIndex(trailerOffset); err != nil {
		return err
	}
	l.virtualSize = int64(trailer.virtualSize)
	l.segments, err = l.readSegments(ctx, &trailer, limits)
	if err != nil {
		return fmt.Errorf("read LSMT index: %w", err)
	}
	return nil
}

// stored is where the bytes of the LSMT file from off to its end are in the blob.
func (l *layer) stored(off int64) span {
	if l.z == nil {
		return span{l.payload.off + off, l.size - off}
	}
	return l.z.span(int(off/l.z.blockSize), l.z.index.blocks()-1)
}

func (l *layer) readSegments(ctx context.Context, trailer *lsmtHeader, limits *openLimits) ([]segment, error) {
	if err := limits.addSegments(trailer.indexEntries); err != nil {
		return nil, err
	}
	length := segmentSize * int64(trailer.indexEntries)
	within := bounds{data: trailer.indexOffset / sector}
	if l.remote != nil {
		within.remote, within.hasRemote = uint64(l.remote.size/sector), true
	}
	segs := make([]segment, 0, min(trailer.indexEntries, padSegments*16))
	buf := make([]byte, min(length, indexPiece))
	for off := int64(0); off < length; off += int64(len(buf)) {
		buf = buf[:min(int64(len(buf)), length-off)]
		if err := scatter(ctx, []piece{{l, int64(trailer.indexOffset) + off, buf}}); err != nil {
			return nil, err
		}
		var err error
		if segs, err = appendSegments(segs, buf, within); err != nil {
			return nil, reason.Wrap(reason.FormatCorrupt, err)
		}
	}
	return segs, nil
}

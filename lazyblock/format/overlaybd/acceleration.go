package overlaybd

import (
	"archive/tar"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/lazyblock"
)

// Acceleration is what a form's top layer tells of its starts (spec section 6):
// either records of reads, or names of files.
type Acceleration struct {
	Records []TraceRecord
	Paths   []string // relative to the image's root; a directory means all below it
}

// TraceRecord is one read of a recorded start.
type TraceRecord struct {
	Layer       int   // 0 is the bottom
	Off, Length int64 // bytes of the layer's LSMT file
}

// The trace file (spec 6.2) and the priority list (spec 6.3).
const (
	accelerationName = "trace"
	traceMagic       = 0xC2EF1820
	traceHeaderSize  = 24
	traceRecordSize  = 24
	traceRead        = 'R'
	maxPriorityList  = 64 << 10

	// MaxAcceleration bounds an acceleration layer: some 700,000 records.
	MaxAcceleration = 16 << 20
)

// ReadAcceleration reads an acceleration layer: a tar of one file.
func ReadAcceleration(ctx context.Context, blob lazyblock.RangeReader) (*Acceleration, error) {
	if blob.Size() > MaxAcceleration {
		return nil, reason.Errorf(reason.FormatCorrupt, "acceleration layer of %d bytes, more than %d", blob.Size(), MaxAcceleration)
	}
	archive := tar.NewReader(io.NewSectionReader(lazyblock.ReaderAt(ctx, blob), 0, blob.Size()))
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return nil, reason.Errorf(reason.FormatCorrupt, "acceleration layer without a file %q", accelerationName)
		}
		if err != nil {
			return nil, fmt.Errorf("read acceleration layer: %w", err)
		}
		if header.Name != accelerationName {
			continue
		}
		content, err := io.ReadAll(io.LimitReader(archive, MaxAcceleration))
		if err != nil {
			return nil, fmt.Errorf("read acceleration layer: %w", err)
		}
		return decodeAcceleration(content)
	}
}

func decodeAcceleration(content []byte) (*Acceleration, error) {
	if len(content) >= 4 && binary.LittleEndian.Uint32(content) == traceMagic {
		records, err := decodeTrace(content)
		return &Acceleration{Records: records}, err
	}
	paths, err := decodePriorityList(content)
	return &Acceleration{Paths: paths}, err
}

func decodeTrace(content []byte) ([]TraceRecord, error) {
	if len(content) < traceHeaderSize {
		return nil, reason.Errorf(reason.FormatCorrupt, "trace of %d bytes", len(content))
	}
	body := content[traceHeaderSize:]
	size, sum := binary.LittleEndian.Uint64(content[8:]), binary.LittleEndian.Uint32(content[16:])
	if size != uint64(len(body)) || size%traceRecordSize != 0 {
		return nil, reason.Errorf(reason.FormatCorrupt, "trace of %d bytes says %d", len(body), size)
	}
	if got := rawCRC(0, body); got != sum {
		return nil, reason.Errorf(reason.FormatCorrupt, "trace has CRC %#x, says %#x", got, sum)
	}
	records := make([]TraceRecord, 0, len(body)/traceRecordSize)
	for ; len(body) > 0; body = body[traceRecordSize:] {
		r := TraceRecord{
			Layer:  int(binary.LittleEndian.Uint32(body[4:])),
			Length: int64(binary.LittleEndian.Uint64(body[8:])),
			Off:    int64(binary.LittleEndian.Uint64(body[16:])),
		}
		if body[0] == traceRead && r.Length > 0 && r.Off >= 0 {
			records = append(records, r)
		}
	}
	return records, nil
}

// priorityLine is what a line of a priority list may be (spec 6.3).
var priorityLine = regexp.MustCompile(`^/?([A-Za-z0-9_.-]+/)*([A-Za-z0-9_.-]+|\*)?/?$`)

func decodePriorityList(content []byte) ([]string, error) {
	if len(content) > maxPriorityList {
		return nil, reason.Errorf(reason.FormatCorrupt, "priority list of %d bytes, more than %d", len(content), maxPriorityList)
	}
	var paths []string
	for line := range strings.Lines(string(content)) {
		line = strings.TrimSpace(line)
		if !priorityLine.MatchString(line) {
			return nil, reason.Errorf(reason.FormatCorrupt, "priority list has a line %.64q that is no path", line)
		}
		if line = strings.Trim(strings.TrimSuffix(line, "*"), "/"); line != "" {
			paths = append(paths, line)
		}
	}
	return paths, nil
}

// Hints are the blob ranges that records of reads warm, in their order. What the
// device does not have is left out.
func (d *Device) Hints(records []TraceRecord) []lazyblock.Hint {
	var hints []lazyblock.Hint
	for _, r := range records {
		if off, n := d.Stored(r.Layer, r.Off, r.Length); n > 0 {
			hints = append(hints, lazyblock.Hint{Blob: r.Layer, Off: off, Length: n})
		}
	}
	return hints
}

package overlaybd

import (
	"bytes"
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/lazyblock"
)

// The tar wrapping of a layer (spec section 2).
const (
	tarBlock      = 512
	tarPrefix     = 3 * tarBlock // what stands before the payload in a layer written by a converter
	tarFooter     = 2 * tarBlock // zero blocks at the end
	paxName       = "overlaybd.pax"
	memberName    = "overlaybd.commit"
	unfinishedTag = "xxtar" // magic of the second header while a writer is at work

	// Bounds on what stands before the payload. Converters write one
	// extension header with 17 to 30 bytes.
	maxTarExtensions = 4
	maxPAXBody       = 64 << 10
)

// span is a range of bytes of a blob.
type span struct{ off, len int64 }

func (s span) end() int64 { return s.off + s.len }

// tarPayload finds the payload of a tar-wrapped layer. A blob without a tar
// header is its own payload.
func tarPayload(ctx context.Context, r lazyblock.RangeReader) (span, error) {
	whole := span{0, r.Size()}
	paxSize := int64(0)
	off := int64(0)
	for range maxTarExtensions + 1 {
		hdr, err := readTarHeader(ctx, r, off)
		if err != nil {
			return span{}, err
		}
		if !hdr.valid() {
			if off == 0 {
				return whole, refuseUnfinished(ctx, r, hdr)
			}
			if hdr.magic() == unfinishedTag {
				return span{}, reason.Errorf(reason.FormatCorrupt, "tar header at %d: the writer never finished this layer", off)
			}
			return span{}, reason.Errorf(reason.FormatCorrupt, "tar header at %d: bad magic or checksum", off)
		}
		size, err := hdr.size()
		if err != nil {
			return span{}, reason.Errorf(reason.FormatCorrupt, "tar header at %d: %w", off, err)
		}
		off += tarBlock
		if !hdr.extension() {
			if paxSize > 0 {
				size = paxSize
			}
			return within(whole, span{off, size})
		}
		if size > maxPAXBody {
			return span{}, reason.Errorf(reason.FormatCorrupt, "tar extension header has %d bytes", size)
		}
		if hdr[typeflagOffset] == 'x' {
			if paxSize, err = readPAXSize(ctx, r, span{off, size}); err != nil {
				return span{}, err
			}
		}
		off += roundUp(size, tarBlock)
	}
	return span{}, reason.Errorf(reason.FormatCorrupt, "tar has more than %d extension headers", maxTarExtensions)
}

func within(whole, s span) (span, error) {
	if s.len <= 0 || s.off > whole.len || s.len > whole.len-s.off {
		return span{}, reason.Errorf(reason.FormatCorrupt,
			"tar payload of %d bytes at %d does not fit a blob of %d bytes", s.len, s.off, whole.len)
	}
	return s, nil
}

// refuseUnfinished tells a file that a writer left unfinished, whose first
// header is not yet a tar header, from an unwrapped one.
func refuseUnfinished(ctx context.Context, r lazyblock.RangeReader, first tarHeader) error {
	if hasMagic(first[:], zfileMagic) || hasMagic(first[:], lsmtMagic) || r.Size() < tarPrefix {
		return nil
	}
	second, err := readTarHeader(ctx, r, 2*tarBlock)
	if err != nil {
		return err
	}
	if second.magic() == unfinishedTag {
		return reason.Errorf(reason.FormatCorrupt, "the writer never finished this layer")
	}
	return nil
}

const (
	sizeOffset     = 124
	checksumOffset = 148
	typeflagOffset = 156
	magicOffset    = 257
)

type tarHeader [tarBlock]byte

func readTarHeader(ctx context.Context, r lazyblock.RangeReader, off int64) (tarHeader, error) {
	var hdr tarHeader
	if r.Size()-off < tarBlock {
		return hdr, reason.Errorf(reason.FormatCorrupt, "blob ends at %d, before a header at %d", r.Size(), off)
	}
	if err := lazyblock.ReadFull(ctx, r, hdr[:], off); err != nil {
		return hdr, fmt.Errorf("read tar header: %w", err)
	}
	return hdr, nil
}

func (h *tarHeader) magic() string { return string(h[magicOffset : magicOffset+5]) }

// valid says whether h is a ustar header with a right checksum; the sum may
// have been taken over signed or unsigned bytes.
func (h *tarHeader) valid() bool {
	if h.magic() != "ustar" || string(h[263:265]) != "00" {
		return false
	}
	want, err := parseOctal(h[checksumOffset : checksumOffset+8])
	if err != nil {
		return false
	}
	unsigned, signed := h.sums()
	return want == unsigned || want == signed
}

func (h *tarHeader) sums() (unsigned, signed int64) {
	for i, b := range h {
		if i >= checksumOffset && i < checksumOffset+8 {
			b = ' '
		}
		unsigned += int64(b)
		signed += int64(int8(b))
	}
	return unsigned, signed
}

// extension says whether h describes the header after it rather than a file.
func (h *tarHeader) extension() bool {
	return bytes.IndexByte([]byte("xgLK"), h[typeflagOffset]) >= 0
}

// size is the length of the member in octal, or in base 256 as GNU tar writes
// lengths from 8 GiB.
func (h *tarHeader) size() (int64, error) {
	field := h[sizeOffset : sizeOffset+12]
	if field[0]&0x80 == 0 {
		return parseOctal(field)
	}
	n := int64(field[0] & 0x7f)
	for _, b := range field[1:] {
		if n > 1<<54 {
			return 0, fmt.Errorf("size field %x is too large", field)
		}
		n = n<<8 | int64(b)
	}
	return n, nil
}

func parseOctal(field []byte) (int64, error) {
	text := strings.Trim(string(field), " \x00")
	if text == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(text, 8, 64)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("bad octal number %q", text)
	}
	return n, nil
}

// readPAXSize returns the value of the size record of a PAX body, 0 without one.
func readPAXSize(ctx context.Context, r lazyblock.RangeReader, at span) (int64, error) {
	body := make([]byte, at.len)
	if r.Size()-at.off < at.len {
		return 0, reason.Errorf(reason.FormatCorrupt, "blob ends within its PAX header")
	}
	if err := lazyblock.ReadFull(ctx, r, body, at.off); err != nil {
		return 0, fmt.Errorf("read PAX header: %w", err)
	}
	size, err := paxSize(body)
	if err != nil {
		return 0, reason.Errorf(reason.FormatCorrupt, "parse PAX header: %w", err)
	}
	return size, nil
}

// paxSize reads records of the form "<len> <key>=<value>\n".
func paxSize(body []byte) (size int64, err error) {
	for len(body) > 0 && body[0] != 0 {
		digits, _, found := bytes.Cut(body[:min(len(body), 20)], []byte(" "))
		n, err := strconv.ParseInt(string(digits), 10, 32)
		if !found || err != nil || n <= int64(len(digits))+1 || n > int64(len(body)) || body[n-1] != '\n' {
			return 0, fmt.Errorf("bad record length %q", digits)
		}
		key, value, found := strings.Cut(string(body[len(digits)+1:n-1]), "=")
		if !found {
			return 0, fmt.Errorf("record %q has no value", key)
		}
		if key == "size" {
			if size, err = strconv.ParseInt(value, 10, 64); err != nil || size < 0 {
				return 0, fmt.Errorf("bad size %q", value)
			}
		}
		body = body[n:]
	}
	return size, nil
}

func roundUp[T int | int64](n, unit T) T { return (n + unit - 1) / unit * unit }

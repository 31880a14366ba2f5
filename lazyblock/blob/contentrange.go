package blob

import (
	"fmt"
	"strconv"
	"strings"
)

// rangeHeader is the Range header for n bytes from off (RFC 9110, 14.1.2).
func rangeHeader(off int64, n int) string {
	return fmt.Sprintf("bytes=%d-%d", off, off+int64(n)-1)
}

// contentRange is a parsed Content-Range header (RFC 9110, 14.4).
type contentRange struct {
	first, last int64
	total       int64 // -1: not told
}

func (r contentRange) length() int64 { return r.last - r.first + 1 }

// parseContentRange parses "bytes FIRST-LAST/TOTAL", TOTAL being a number or
// "*". 0 <= FIRST <= LAST < TOTAL holds for what it returns.
func parseContentRange(header string) (contentRange, error) {
	bad := func() (contentRange, error) {
		return contentRange{}, fmt.Errorf("parse Content-Range %.80q", header)
	}
	unit, rest, ok := strings.Cut(header, " ")
	if !ok || !strings.EqualFold(unit, "bytes") {
		return bad()
	}
	span, totalText, ok := strings.Cut(rest, "/")
	if !ok {
		return bad()
	}
	firstText, lastText, ok := strings.Cut(span, "-")
	if !ok {
		return bad()
	}
	first, err1 := parseOffset(firstText)
	last, err2 := parseOffset(lastText)
	total, err3 := int64(-1), error(nil)
	if totalText != "*" {
		total, err3 = parseOffset(totalText)
	}
	if err1 != nil || err2 != nil || err3 != nil || first > last || (total >= 0 && last >= total) {
		return bad()
	}
	return contentRange{first, last, total}, nil
}

// parseOffset takes digits only: no sign, no spaces.
func parseOffset(text string) (int64, error) {
	n, err := strconv.ParseUint(text, 10, 63)
	return int64(n), err
}

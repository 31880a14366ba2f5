package configs

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Duration is a time.Duration written as text: "3s", "1m30s". It is a struct so
// that a bare number, whose unit nobody could know, is refused.
type Duration struct{ time.Duration }

// UnmarshalText reads what time.ParseDuration accepts.
func (d *Duration) UnmarshalText(text []byte) error {
	parsed, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf("%q is not a duration such as \"3s\" or \"5m\"", text)
	}
	d.Duration = parsed
	return nil
}

// MarshalText writes the shortest text that reads back the same: "5m", not "5m0s".
func (d Duration) MarshalText() ([]byte, error) {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return []byte(text), nil
}

// Percent is a share of a whole, written "15%"; a struct for the same reason.
type Percent struct{ Hundredths int }

// UnmarshalText reads a whole number from 0 to 100 with a percent sign.
func (p *Percent) UnmarshalText(text []byte) error {
	number, found := strings.CutSuffix(string(text), "%")
	n, err := strconv.ParseUint(strings.TrimSpace(number), 10, 31)
	if !found || err != nil || n > 100 {
		return fmt.Errorf("%q is not a share such as \"15%%\"", text)
	}
	p.Hundredths = int(n)
	return nil
}

// MarshalText writes the share as it is read.
func (p Percent) MarshalText() ([]byte, error) { return fmt.Appendf(nil, "%d%%", p.Hundredths), nil }

// Size is a number of bytes written as text: "64MiB", "20GiB", "512B".
type Size struct{ Bytes int64 }

// The units a Size is written in, in bytes.
const (
	KiB int64 = 1 << 10
	MiB int64 = 1 << 20
	GiB int64 = 1 << 30
	TiB int64 = 1 << 40
)

// sizeUnits runs from the largest to the smallest, so that the first that
// divides a size is the one it is written in.
var sizeUnits = []struct {
	suffix string
	bytes  int64
}{{"TiB", TiB}, {"GiB", GiB}, {"MiB", MiB}, {"KiB", KiB}, {"B", 1}}

// UnmarshalText reads a whole number with one of the units B, KiB, MiB, GiB, TiB.
func (s *Size) UnmarshalText(text []byte) error {
	for _, unit := range sizeUnits {
		number, found := strings.CutSuffix(string(text), unit.suffix)
		if !found {
			continue
		}
		n, err := strconv.ParseUint(strings.TrimSpace(number), 10, 63)
		if err != nil || n > uint64(math.MaxInt64/unit.bytes) {
			break
		}
		s.Bytes = int64(n) * unit.bytes
		return nil
	}
	return fmt.Errorf("%q is not a size such as \"64MiB\" or \"20GiB\"", text)
}

// MarshalText writes the size in the largest unit that loses nothing.
func (s Size) MarshalText() ([]byte, error) {
	for _, unit := range sizeUnits {
		if s.Bytes != 0 && s.Bytes%unit.bytes == 0 {
			return fmt.Appendf(nil, "%d%s", s.Bytes/unit.bytes, unit.suffix), nil
		}
	}
	return []byte("0B"), nil
}

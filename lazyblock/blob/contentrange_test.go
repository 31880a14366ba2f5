package blob

import (
	"fmt"
	"testing"
)

func TestParseContentRange(t *testing.T) {
	t.Parallel()
	for header, want := range map[string]*contentRange{
		"bytes 0-0/1":                   {0, 0, 1},
		"bytes 5-9/10":                  {5, 9, 10},
		"Bytes 5-9/*":                   {5, 9, -1},
		"":                              nil,
		"bytes */10":                    nil,
		"bytes 5-4/10":                  nil,
		"bytes 5-10/10":                 nil,
		"bytes -5-9/10":                 nil,
		"bytes +5-9/10":                 nil,
		"bytes 5-9":                     nil,
		"bytes 5/10":                    nil,
		"items 5-9/10":                  nil,
		"bytes 5-9/10, 1-2":             nil,
		"bytes 0-9223372036854775808/*": nil,
	} {
		got, err := parseContentRange(header)
		if (err == nil) != (want != nil) || (want != nil && got != *want) {
			t.Errorf("%q: %+v, %v; want %+v", header, got, err, want)
		}
	}
}

func FuzzParseContentRange(f *testing.F) {
	for _, seed := range []string{"bytes 0-0/1", "bytes 5-9/*", "bytes */10", "bytes 18446744073709551615-1/2"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, header string) {
		got, err := parseContentRange(header)
		if err != nil {
			return
		}
		if got.first < 0 || got.last < got.first || (got.total != -1 && got.total <= got.last) || got.length() <= 0 && got.last != 1<<63-1 {
			t.Fatalf("%q gives %+v", header, got)
		}
		total := "*"
		if got.total >= 0 {
			total = fmt.Sprint(got.total)
		}
		if again, err := parseContentRange(fmt.Sprintf("bytes %d-%d/%s", got.first, got.last, total)); err != nil || again != got {
			t.Fatalf("%q gives %+v, and that %+v, %v", header, got, again, err)
		}
	})
}

package estargz

import (
	"encoding/hex"
	"testing"
)

// Footers as writers make them.
const (
	footer51 = "1f8b08040000000000ff1a00534716003030303030303030303031323334353653544152475a010000ffff0000000000000000"
	footer46 = "1f8b08040000000000ff15005347110053544152475a45585445524e414c544f43010000ffff0000000000000000"
	footer47 = "1f8b08040000000000ff16003030303030303030303031323334353653544152475a010000ffff0000000000000000"
)

func TestFootersOfEveryKind(t *testing.T) {
	t.Parallel()
	const size = 0x200000
	for name, tc := range map[string]struct {
		hex  string
		want footer
	}{
		"eStargz":       {footer51, footer{size: 51, toc: 0x123456}},
		"stargz":        {footer47, footer{size: 47, toc: 0x123456}},
		"outside table": {footer46, footer{size: 46, toc: size - 46, external: true}},
	} {
		tail := append(make([]byte, 100), unhex(t, tc.hex)...)
		got, err := parseFooter(tail, size)
		if err != nil || got != tc.want {
			t.Errorf("%s: %+v, %v, want %+v", name, got, err, tc.want)
		}
		if got, err := parseFooter(unhex(t, tc.hex), size); err != nil || got != tc.want {
			t.Errorf("%s alone: %+v, %v, want %+v", name, got, err, tc.want)
		}
	}
}

func TestOtherEndsAreRefused(t *testing.T) {
	t.Parallel()
	for name, tail := range map[string][]byte{
		"nothing":               {},
		"short":                 {0x1f, 0x8b},
		"no footer":             make([]byte, 100),
		"table behind the blob": unhex(t, footer51), // in a blob of its own size
		"no number":             []byte("\x1f\x8b\x08\x04\x00\x00\x00\x00\x00\xff\x1a\x00SG\x16\x00000000000012345gSTARGZ\x01\x00\x00\xff\xff\x00\x00\x00\x00\x00\x00\x00\x00"),
		"other magic":           []byte("\x1f\x8b\x08\x04\x00\x00\x00\x00\x00\xff\x1a\x00SG\x16\x000000000000000001STARGY\x01\x00\x00\xff\xff\x00\x00\x00\x00\x00\x00\x00\x00"),
	} {
		if got, err := parseFooter(tail, int64(len(tail))); err == nil {
			t.Errorf("%s: taken for %+v", name, got)
		}
	}
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func FuzzParseFooter(f *testing.F) {
	for _, s := range []string{footer51, footer47, footer46} {
		f.Add(unhex(f, s), int64(0x200000))
	}
	f.Fuzz(func(t *testing.T, tail []byte, size int64) {
		if size < int64(len(tail)) {
			return
		}
		if foot, err := parseFooter(tail, size); err == nil && (foot.toc < 0 || foot.size <= 0 || foot.toc+foot.size > size) {
			t.Fatalf("%+v is outside a blob of %d bytes", foot, size)
		}
	})
}

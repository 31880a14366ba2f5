package zstdchunked

import (
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const sum = "sha256:dc0e9c3658a1a3ed1ec94274d8b19925c93e1abb7ddba294923ad9bde30f8cb8"

func layer(prefix, checksum, position string) ocispec.Descriptor {
	return ocispec.Descriptor{Size: 1000, Annotations: map[string]string{prefix + manifestChecksum: checksum, prefix + manifestPosition: position}}
}

func TestPositionsOfBothDialects(t *testing.T) {
	t.Parallel()
	for _, prefix := range []string{prefixStargz, prefixContainers} {
		got, err := positionOf(layer(prefix, sum, "700:200:5000:1"))
		want := position{off: 700, stored: 200, size: 5000, digest: sum}
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v, want %+v", prefix, got, err, want)
		}
		if end := got.end(); end != 692 {
			t.Errorf("%s: the files end at %d, want 692", prefix, end)
		}
	}
}

func TestPositionsThatCannotBeAreRefused(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ checksum, position, says string }{
		"no checksum":     {"", "700:200:5000:1", manifestChecksum},
		"no position":     {sum, "", "4 numbers"},
		"three numbers":   {sum, "700:200:5000", "4 numbers"},
		"no number":       {sum, "700:200:5000:x", "no number"},
		"negative":        {sum, "-1:200:5000:1", "no number"},
		"too large":       {sum, "9223372036854775808:1:1:1", "no number"},
		"other type":      {sum, "700:200:5000:2", "type 2"},
		"nothing":         {sum, "700:0:5000:1", "0 bytes at 700"},
		"behind the end":  {sum, "900:101:5000:1", "101 bytes at 900"},
		"overflows":       {sum, "9223372036854775807:1:5000:1", "1 bytes at"},
		"in its frame":    {sum, "7:200:5000:1", "200 bytes at 7"},
		"large to expand": {sum, "700:200:536870913:1", "536870913 bytes"},
	} {
		if got, err := positionOf(layer(prefixStargz, tc.checksum, tc.position)); err == nil || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: %+v, %v, want an error that says %q", name, got, err, tc.says)
		}
	}
}

func FuzzPositionOf(f *testing.F) {
	f.Add(sum, "700:200:5000:1")
	f.Add(sum, "::: :")
	f.Fuzz(func(t *testing.T, checksum, said string) {
		if at, err := positionOf(layer(prefixContainers, checksum, said)); err == nil && (at.end() < 0 || at.stored <= 0 || at.off+at.stored > 1000) {
			t.Fatalf("%q gives %+v in a layer of 1000 bytes", said, at)
		}
	})
}

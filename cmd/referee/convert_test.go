package main

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/referee-cri/referee/internal/regtest"
	"github.com/referee-cri/referee/internal/testdata"
)

// TestConvertFlagsAreOfOneFormat: a flag that would do nothing is a mistake.
func TestConvertFlagsAreOfOneFormat(t *testing.T) {
	t.Parallel()
	for want, args := range map[string][]string{
		"--to squashfs: expected one of overlaybd":        {"--to", "squashfs"},
		"--span-size is for soci and soci-v2 only":        {"--to", "estargz", "--span-size", "65536"},
		"--algorithm is for overlaybd only, not for soci": {"--to", "soci", "--algorithm", "lz4"},
		"--uncompressed is for disk only":                 {"--uncompressed"},
		"--algorithm lzo: expected lz4 or zstd":           {"--algorithm", "lzo"},
		"--chunk-size 1: expected ":                       {"--to", "zstd-chunked", "--chunk-size", "1"},
		"--span-size 1: expected ":                        {"--to", "soci-v2", "--span-size", "1"},
		"--prioritize: open ":                             {"--to", "estargz", "--prioritize", "/nonexistent"},
		"exclude each other":                              {"--all-platforms", "--platform", "linux/amd64"},
		"say with --tag":                                  {"--to", "estargz"},
		"takes no reference of its own":                   {"--to", "erofs", "--tag", "2"},
	} {
		t.Run(want, func(t *testing.T) {
			t.Parallel()
			if out, err := referee(t, "version = 1\n", append([]string{"convert", "127.0.0.1:9/app:1"}, args...)...); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want %q\n%s", err, want, out)
			}
		})
	}
}

// TestConvertSaysWhatBecameOfTheImage tells a form that is attached from a new image.
func TestConvertSaysWhatBecameOfTheImage(t *testing.T) {
	t.Parallel()
	reg := regtest.New(t, regtest.Options{})
	if _, err := reg.LoadLayout("tiny", filepath.Join(testdata.Dir(t, "reference"), "tiny")); err != nil {
		t.Fatal(err)
	}
	ref := reg.Ref("tiny", "tiny")
	for format, tc := range map[string]struct {
		args []string
		want []string
	}{
		"erofs":   {nil, []string{" attached to sha256:07dd", "(4 layers, "}},
		"soci-v2": {[]string{"--tag", "v2", "--min-layer-size", "0"}, []string{"tiny:v2 is sha256:07dd", "as soci-v2 (4 layers, ", "is a new image. Of the original it keeps image ID, config, layers and diff IDs"}},
	} {
		t.Run(format, func(t *testing.T) {
			t.Parallel()
			out, err := referee(t, "version = 1\n", append([]string{"convert", ref, "--to", format, "--temp-dir", t.TempDir()}, tc.args...)...)
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			for _, want := range tc.want {
				if !strings.Contains(out, want) {
					t.Errorf("does not say %q:\n%s", want, out)
				}
			}
		})
	}
}

package stargz_test

import (
	"testing"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/lazyblock/convert/imagetest"
	"github.com/referee-cri/referee/lazyblock/convert/stargz"
)

// FuzzLayer hands anything to the formats' library. What is refused must be refused
// for what it is, and never by a crash.
func FuzzLayer(f *testing.F) {
	rich := imagetest.File("f", "content")
	rich.PAXRecords = map[string]string{"SCHILY.xattr.user.a": "\x00", "mtime": "1.5", "uid": "3000000"}
	f.Add(imagetest.Tar(f, imagetest.Dir("d"), rich, imagetest.Symlink("l", "d"), imagetest.Hardlink("h", "f")), "/h")
	f.Add(imagetest.SparseTar(f, 1<<20), "hole")
	f.Add(imagetest.Tar(f, imagetest.Hardlink("a", "b"), imagetest.Hardlink("b", "a")), "a")
	f.Fuzz(func(t *testing.T, layer []byte, first string) {
		for _, format := range formats {
			image := imagetest.Image{Tars: [][]byte{layer}, Pack: []func([]byte) []byte{imagetest.Plain}}
			store, desc := image.Store(t)
			_, err := convert(t.Context(), store, desc, stargz.Options{
				WorkDir: t.TempDir(), Format: format, Prioritized: []string{first}, MaxSize: 4 << 20,
			})
			if code := reason.Of(err); err != nil && code != reason.ArtifactInvalid && code != reason.DigestMismatch {
				t.Errorf("error does not blame the layer: %v", err)
			}
		}
	})
}

package ztoc_test

import (
	"errors"
	"testing"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/lazyblock/convert/imagetest"
	"github.com/referee-cri/referee/lazyblock/convert/ztoc"
)

// FuzzLayer indexes anything, as it is and compressed. What is refused must be refused
// for what it is, and never by a crash.
func FuzzLayer(f *testing.F) {
	rich := imagetest.File("f", "content")
	rich.PAXRecords = map[string]string{"SCHILY.xattr.user.a": "\x00", "mtime": "1.5", "uid": "3000000"}
	f.Add(imagetest.Tar(f, imagetest.Dir("d"), rich, imagetest.Symlink("l", "d"), imagetest.Hardlink("h", "f")))
	f.Add(imagetest.SparseTar(f, 1<<20))
	f.Add(imagetest.Gzip(imagetest.Tar(f, imagetest.File("a", "a"))))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, layer []byte) {
		for _, pack := range []func([]byte) []byte{imagetest.Plain, imagetest.Gzip} {
			image := imagetest.Image{Tars: [][]byte{layer}, Pack: []func([]byte) []byte{pack}}
			encoded, err := build(t.Context(), t, image, ztoc.Options{SpanSize: 64 << 10, MaxSize: 1 << 20})
			if err == nil && len(encoded) == 0 {
				t.Error("an empty table")
			}
			code := reason.Of(err)
			if err != nil && code != reason.ArtifactInvalid && code != reason.DigestMismatch && !errors.Is(err, ztoc.ErrNotIndexed) {
				t.Errorf("error does not blame the layer: %v", err)
			}
		}
	})
}

package convert

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/referee-cri/referee/lazyblock/convert/imagetest"
	"github.com/referee-cri/referee/lazyblock/erofs"
)

// BenchmarkConvert converts one layer of incompressible and compressible files;
// the rate is of uncompressed tar bytes.
func BenchmarkConvert(b *testing.B) {
	var entries []imagetest.Entry
	random := rand.NewChaCha8([32]byte{})
	for i := range 2000 {
		content := bytes.Repeat([]byte("some text that compresses well enough, "), 400)
		if i%2 == 0 {
			content = make([]byte, 15_000)
			_, _ = random.Read(content)
		}
		entries = append(entries, imagetest.File(fmt.Sprintf("dir%d/file%d", i%40, i), string(content)))
	}
	tarball := imagetest.Tar(b, entries...)
	for name, pack := range map[string]func([]byte) []byte{"gzip": imagetest.Gzip, "zstd": imagetest.Zstd, "plain": imagetest.Plain} {
		b.Run(name, func(b *testing.B) {
			store, desc := imagetest.Image{Tars: [][]byte{tarball}, Pack: []func([]byte) []byte{pack}}.Store(b)
			b.SetBytes(int64(len(tarball)))
			for b.Loop() {
				if _, err := imageFrom(b.Context(), store, desc, Options{WorkDir: b.TempDir()}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("without compression of any kind", func(b *testing.B) {
		b.SetBytes(int64(len(tarball)))
		for b.Loop() {
			d := newDisk(erofs.Limits{})
			if err := d.addLayer(b.Context(), bytes.NewReader(tarball), trustAll, discardAt{}, virtualSize, [16]byte{}); err != nil {
				b.Fatal(err)
			}
		}
	})
}

type discardAt struct{}

func (discardAt) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }

package convert_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/referee-cri/referee/lazyblock/convert"
	"github.com/referee-cri/referee/lazyblock/convert/imagetest"
	"github.com/referee-cri/referee/lazyblock/convert/source"
	"github.com/referee-cri/referee/lazyblock/convert/stargz"
	"github.com/referee-cri/referee/lazyblock/convert/ztoc"
)

// BenchmarkFormats converts one gzip layer to every format: this test's own program,
// and many files of text and of noise. The rate is of uncompressed tar bytes. The floor
// is what no converter can do without: decompressing and hashing once.
func BenchmarkFormats(b *testing.B) {
	tarball := program(b)
	packed := imagetest.Gzip(tarball)
	store, desc := imagetest.Image{Tars: [][]byte{tarball}, Pack: []func([]byte) []byte{func([]byte) []byte { return packed }}}.Store(b)
	image, err := source.Read(b.Context(), store, desc)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("floor: gzip -dc | sha256sum", func(b *testing.B) {
		layer := filepath.Join(b.TempDir(), "layer.tar.gz")
		if err := os.WriteFile(layer, packed, 0o600); err != nil {
			b.Fatal(err)
		}
		measure(b, int64(len(tarball)))
		for b.Loop() {
			if out, err := exec.CommandContext(b.Context(), "sh", "-c", "gzip -dc "+layer+" | sha256sum").CombinedOutput(); err != nil {
				b.Fatalf("%v: %s", err, out)
			}
		}
	})
	for _, format := range []struct {
		name    string
		convert func(ctx context.Context, work string) error
	}{
		{"overlaybd", func(ctx context.Context, work string) error {
			_, err := convert.Image(ctx, image, convert.Options{WorkDir: work})
			return err
		}},
		{"estargz", func(ctx context.Context, work string) error {
			_, err := stargz.Image(ctx, image, stargz.Options{WorkDir: work})
			return err
		}},
		{"zstd-chunked", func(ctx context.Context, work string) error {
			_, err := stargz.Image(ctx, image, stargz.Options{WorkDir: work, Format: stargz.ZstdChunked})
			return err
		}},
		{"soci", func(ctx context.Context, work string) error {
			_, err := ztoc.Layer(ctx, image, 0, ztoc.Options{WorkDir: work, SpanSize: 4 << 20, MaxSize: 1 << 40, Progress: func(source.Progress) {}})
			return err
		}},
		{"erofs", func(ctx context.Context, work string) error {
			_, err := convert.Layers(ctx, image, convert.Options{WorkDir: work})
			return err
		}},
		{"disk", func(ctx context.Context, work string) error {
			_, err := convert.Flat(ctx, image, true, convert.Options{WorkDir: work})
			return err
		}},
		{"disk, uncompressed", func(ctx context.Context, work string) error {
			_, err := convert.Flat(ctx, image, false, convert.Options{WorkDir: work})
			return err
		}},
	} {
		b.Run(format.name, func(b *testing.B) {
			measure(b, int64(len(tarball)))
			for b.Loop() {
				if err := format.convert(b.Context(), b.TempDir()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// measure reports the rate, and beside it the processor time, which says more where
// the machine is busy.
func measure(b *testing.B, size int64) {
	b.Helper()
	b.SetBytes(size)
	before := processorTime(b)
	b.Cleanup(func() {
		spent := processorTime(b) - before
		b.ReportMetric(float64(size)*float64(b.N)/1e6/spent.Seconds(), "MB/cpu-s")
	})
}

// processorTime is that of this process and of its children that have ended.
func processorTime(b *testing.B) (spent time.Duration) {
	b.Helper()
	for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
		var usage unix.Rusage
		if err := unix.Getrusage(who, &usage); err != nil {
			b.Fatal(err)
		}
		spent += time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
	}
	return spent
}

// program is a tar of this test's program and of small files.
func program(b *testing.B) []byte {
	b.Helper()
	path, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	code, err := os.ReadFile(path)
	if err != nil {
		b.Fatal(err)
	}
	entries := []imagetest.Entry{imagetest.File("program", string(code))}
	random := rand.NewChaCha8([32]byte{})
	for i := range 1000 {
		content := bytes.Repeat(fmt.Appendf(nil, "line %d of some text that compresses well enough\n", i), 300)
		if i%4 == 0 {
			content = make([]byte, 15_000)
			_, _ = random.Read(content) // never fails
		}
		entries = append(entries, imagetest.File(fmt.Sprintf("dir%d/file%d", i%40, i), string(content)))
	}
	return imagetest.Tar(b, entries...)
}

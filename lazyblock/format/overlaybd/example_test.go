package overlaybd_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"os"

	"github.com/referee-cri/referee/lazyblock"
	"github.com/referee-cri/referee/lazyblock/format/overlaybd"
)

// file is a layer blob in a local file; a registry blob looks the same.
type file struct{ *os.File }

func (f file) ReadRange(_ context.Context, p []byte, off int64) (int, error) { return f.ReadAt(p, off) }

func (f file) Size() int64 {
	n, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		log.Fatal(err)
	}
	return n
}

// writeLayer writes a layer that has text in the given sector.
func writeLayer(text string, sector int64) lazyblock.RangeReader {
	f, err := os.CreateTemp("", "layer")
	if err != nil {
		log.Fatal(err)
	}
	if err := os.Remove(f.Name()); err != nil { // the descriptor keeps it
		log.Fatal(err)
	}
	w, err := overlaybd.NewLayerWriter(f, overlaybd.LayerOptions{VirtualSize: 1 << 20})
	if err != nil {
		log.Fatal(err)
	}
	data := append([]byte(text), make([]byte, 512-len(text))...)
	if _, err := w.WriteAt(data, sector*512); err != nil {
		log.Fatal(err)
	}
	if _, err := w.Finish(context.Background()); err != nil {
		log.Fatal(err)
	}
	return file{f}
}

func Example() {
	ctx := context.Background()
	lower, upper := writeLayer("lower", 0), writeLayer("upper", 1)
	disk, err := overlaybd.Open(ctx, []lazyblock.RangeReader{lower, upper}, "disk")
	if err != nil {
		log.Fatal(err)
	}
	p := make([]byte, 3*512)
	if _, err := disk.ReadRange(ctx, p, 0); err != nil {
		log.Fatal(err)
	}
	for sector := range 3 {
		fmt.Printf("%q\n", bytes.TrimRight(p[sector*512:][:512], "\x00"))
	}
	// Output:
	// "lower"
	// "upper"
	// ""
}

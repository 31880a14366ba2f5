package gzindex

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"slices"
	"testing"
)

// maxFuzzed keeps bombs from taking the fuzzer's time.
const maxFuzzed = 1 << 20

// FuzzReader compares with Go's gzip: what that inflates gives the same bytes here,
// and what that refuses gives an error.
func FuzzReader(f *testing.F) {
	data := content(1, 4_000)
	for _, level := range []int{0, 1, 6, gzip.HuffmanOnly} {
		f.Add(member(f, level, data, nil))
		f.Add(members(f, level, data[:3000], 1000))
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, file []byte) {
		want, wantErr := inflateByLibrary(file)
		got, err := io.ReadAll(io.LimitReader(NewReader(bytes.NewReader(file), NewBuilder(200_000).Visit), maxFuzzed))
		switch {
		case err != nil && !errors.Is(err, ErrCorrupt):
			t.Fatalf("error of another kind: %v", err)
		case (err == nil) != (wantErr == nil):
			t.Fatalf("got %v, Go's library says %v", err, wantErr)
		case err == nil && !bytes.Equal(got, want):
			t.Fatalf("%d bytes, Go's library inflates %d others", len(got), len(want))
		}
	})
}

func inflateByLibrary(file []byte) ([]byte, error) {
	r, err := gzip.NewReader(bytes.NewReader(file))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(io.LimitReader(r, maxFuzzed))
}

// FuzzDecode inflates arbitrary bytes from arbitrary checkpoints: never a panic, and
// nothing is written beyond dst.
func FuzzDecode(f *testing.F) {
	file := member(f, 6, content(2, 30_000), nil)
	f.Add(file[10:], file[:100], uint8(0), 30_000, false)
	f.Add(file[11:], []byte{}, uint8(3), 1000, true)
	f.Fuzz(func(t *testing.T, src, window []byte, bits uint8, size int, open bool) {
		if size <= 0 || size > maxFuzzed || len(src) == 0 {
			return
		}
		windows := &Windows{}
		if err := windows.Add(window[:min(len(window), WindowSize)]); err != nil {
			t.Fatal(err)
		}
		in := int64(min(bits&7, 1))
		x := &Index{
			Checkpoints: []Checkpoint{{In: in, Bits: bits & 7}}, Windows: windows,
			Compressed: int64(len(src)), Uncompressed: int64(size), Open: open,
		}
		if x.Check() != nil {
			return
		}
		fence := bytes.Repeat([]byte{0xA5}, 300)
		room := slices.Concat(make([]byte, size), fence)
		if err := x.Decode(0, room[:size], src); err != nil && !errors.Is(err, ErrCorrupt) {
			t.Fatal(err)
		}
		if !bytes.Equal(room[size:], fence) {
			t.Fatal("wrote beyond its end")
		}
		// As an index's other spans: up to a place where the next one begins.
		d := x.decoders.borrow()
		defer x.decoders.giveBack(d)
		d.begin(room[:size], src, bits&7, window[:min(len(window), WindowSize)])
		if err := d.inflateTo(8 * len(src)); err != nil && !errors.Is(err, ErrCorrupt) {
			t.Fatal(err)
		}
	})
}

// FuzzZlibWindow unpacks windows that somebody else packed.
func FuzzZlibWindow(f *testing.F) {
	f.Add([]byte{0x78, 0x9c, 1, 2, 3, 4, 5, 6})
	f.Fuzz(func(t *testing.T, stream []byte) {
		w := &Windows{}
		if err := w.AddZlib(stream); err != nil {
			return
		}
		w.Done()
		if window, err := w.Window(nil, 0); err == nil && len(window) != WindowSize {
			t.Errorf("window of %d bytes", len(window))
		}
	})
}

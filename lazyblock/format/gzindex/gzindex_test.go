package gzindex

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"slices"
	"testing"
	"testing/iotest"
)

// files are gzip files of every shape, with what they hold.
func files(t *testing.T) map[string]struct{ file, data []byte } {
	t.Helper()
	data := content(1, 300_000)
	type f = struct{ file, data []byte }
	return map[string]f{
		"default":          {member(t, gzip.DefaultCompression, data, nil), data},
		"best":             {member(t, gzip.BestCompression, data, nil), data},
		"fast":             {member(t, gzip.BestSpeed, data, nil), data},
		"Huffman only":     {member(t, gzip.HuffmanOnly, data, nil), data},
		"stored":           {member(t, gzip.NoCompression, data, nil), data},
		"a byte":           {member(t, 6, []byte{7}, nil), []byte{7}},
		"nothing":          {member(t, 6, nil, nil), nil},
		"zeros":            {member(t, 6, make([]byte, 1<<20), nil), make([]byte, 1<<20)},
		"members":          {members(t, 6, data, 64<<10), data},
		"members, stored":  {members(t, 0, data, 50_000), data},
		"many tiny ones":   {members(t, 6, data[:2_000], 7), data[:2_000]},
		"and an empty one": {slices.Concat(member(t, 6, data, nil), member(t, 6, nil, nil)), data},
		"a full header": {member(t, 6, data, func(h *gzip.Header) {
			h.Name, h.Comment, h.Extra = "layer.tar", "with all that a header may have", bytes.Repeat([]byte{9}, 60_000)
		}), data},
	}
}

func TestReaderInflatesWholeFiles(t *testing.T) {
	t.Parallel()
	for name, tc := range files(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for how, r := range map[string]io.Reader{
				"at once":         bytes.NewReader(tc.file),
				"byte by byte":    iotest.OneByteReader(bytes.NewReader(tc.file)),
				"with the error":  iotest.DataErrReader(bytes.NewReader(tc.file)),
				"half as wanted":  iotest.HalfReader(bytes.NewReader(tc.file)),
				"behind a buffer": io.MultiReader(bytes.NewReader(tc.file[:len(tc.file)/3]), bytes.NewReader(tc.file[len(tc.file)/3:])),
			} {
				gz := NewReader(r, nil)
				got, err := io.ReadAll(gz)
				if err != nil || !bytes.Equal(got, tc.data) {
					t.Errorf("%s: %d bytes, %v; want %d", how, len(got), err, len(tc.data))
				}
				if out, in := gz.Offsets(); out != int64(len(tc.data)) || in != int64(len(tc.file)) {
					t.Errorf("%s: offsets %d and %d, want %d and %d", how, out, in, len(tc.data), len(tc.file))
				}
			}
		})
	}
}

func TestSpansInflateByThemselves(t *testing.T) {
	t.Parallel()
	for name, tc := range files(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, span := range []int64{1, 10_000, 1 << 20} {
				x, data := index(t, tc.file, span)
				at := int64(0)
				for i := range x.Checkpoints {
					out, size, _, _ := x.Span(i)
					if out != at || size <= 0 {
						t.Fatalf("span %d is %d bytes at %d, want it at %d", i, size, out, at)
					}
					got, err := decode(x, tc.file, i)
					if err != nil || !bytes.Equal(got, data[out:out+size]) {
						t.Fatalf("span %d of %d: %v", i, len(x.Checkpoints), err)
					}
					at += size
				}
				if at != int64(len(data)) {
					t.Errorf("spans of %d add up to %d bytes, want %d", span, at, len(data))
				}
			}
		})
	}
}

func TestCheckpointsLieMoreThanASpanApart(t *testing.T) {
	t.Parallel()
	data := content(2, 2<<20)
	x, _ := index(t, member(t, 6, data, nil), 100<<10)
	bits := map[uint8]bool{}
	for i, c := range x.Checkpoints {
		bits[c.Bits] = true
		if i > 0 && c.Out-x.Checkpoints[i-1].Out <= 100<<10 {
			t.Errorf("checkpoint %d is at %d, the one before at %d", i, c.Out, x.Checkpoints[i-1].Out)
		}
		window, err := x.Windows.Window(nil, i)
		if err != nil || !bytes.Equal(window, data[max(0, c.Out-WindowSize):c.Out]) {
			t.Errorf("window %d is not the output before: %v", i, err)
		}
	}
	if len(x.Checkpoints) < 8 || len(bits) < 4 {
		t.Errorf("%d checkpoints that begin with %d kinds of bits: the test proves little", len(x.Checkpoints), len(bits))
	}
}

// A span of which the index says something wrong is an error, whatever its bytes are.
func TestSpansMustBeWhatTheIndexSays(t *testing.T) {
	t.Parallel()
	data := content(3, 2<<20)
	file := members(t, 6, data, 700_000)
	for name, change := range map[string]func(x *Index){
		"a span too long":       func(x *Index) { x.Checkpoints[2].Out++ },
		"a span too short":      func(x *Index) { x.Checkpoints[2].Out-- },
		"a bit off":             func(x *Index) { x.Checkpoints[1].Bits = (x.Checkpoints[1].Bits + 1) & 7 },
		"a byte off":            func(x *Index) { x.Checkpoints[1].In++ },
		"longer than the file":  func(x *Index) { x.Uncompressed++ },
		"shorter than the file": func(x *Index) { x.Uncompressed-- },
		"another window": func(x *Index) {
			x.Windows = &Windows{}
			for range x.Checkpoints {
				if err := x.Windows.Add(data[:100]); err != nil {
					t.Fatal(err)
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			x, _ := index(t, file, 200_000)
			change(x)
			if err := x.Check(); err != nil {
				t.Fatal(err)
			}
			wrong := 0
			for i := range x.Checkpoints {
				out, size, _, _ := x.Span(i)
				got, err := decode(x, file, i)
				switch {
				case errors.Is(err, ErrCorrupt):
					wrong++
				case err != nil || !bytes.Equal(got, data[out:out+size]):
					t.Errorf("span %d: %v, or wrong bytes", i, err)
				}
			}
			if wrong == 0 {
				t.Error("every span was inflated")
			}
		})
	}
}

func TestOpenIndexIgnoresWhatFollows(t *testing.T) {
	t.Parallel()
	data := append(content(4, 1<<20), make([]byte, 10_000)...)
	file := member(t, 6, data, nil)
	x, _ := index(t, file, 100_000)
	x.Uncompressed -= 9_000 // within a match
	last := len(x.Checkpoints) - 1
	if _, err := decode(x, file, last); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a closed index takes a longer file: %v", err)
	}
	x.Open = true
	out, size, _, _ := x.Span(last)
	got, err := decode(x, file, last)
	if err != nil || !bytes.Equal(got, data[out:out+size]) {
		t.Errorf("last span: %v, or wrong bytes", err)
	}
}

func TestDamageIsFound(t *testing.T) {
	t.Parallel()
	data := content(5, 300_000)
	file := members(t, 6, data, 100_000)
	for at := 0; at < len(file); at += 1 + len(file)/67 {
		broken := bytes.Clone(file)
		broken[at] ^= 0x10
		got, err := io.ReadAll(NewReader(bytes.NewReader(broken), nil))
		if err == nil && !bytes.Equal(got, data) {
			t.Errorf("a flipped bit at %d goes unnoticed", at)
		}
		if err != nil && !errors.Is(err, ErrCorrupt) {
			t.Errorf("a flipped bit at %d: %v", at, err)
		}
		if got, err := io.ReadAll(NewReader(bytes.NewReader(file[:at]), nil)); !errors.Is(err, io.ErrUnexpectedEOF) && !wholeMembers(file[:at]) {
			t.Errorf("%d of %d bytes: %d bytes and %v", at, len(file), len(got), err)
		}
	}
}

func wholeMembers(file []byte) bool {
	r, err := gzip.NewReader(bytes.NewReader(file))
	if err != nil {
		return false
	}
	_, err = io.Copy(io.Discard, r)
	return err == nil
}

func TestHostileHeaders(t *testing.T) {
	t.Parallel()
	good := member(t, 6, []byte("content"), nil)
	for name, file := range map[string][]byte{
		"no gzip":           []byte("no gzip file at all"),
		"reserved flags":    append([]byte{0x1f, 0x8b, 8, 0xe0}, good[4:]...),
		"endless name":      append([]byte{0x1f, 0x8b, 8, hasName, 0, 0, 0, 0, 0, 255}, bytes.Repeat([]byte{'x'}, 1<<20)...),
		"garbage behind":    append(bytes.Clone(good), "garbage"...),
		"block of type 3":   append(bytes.Clone(good[:10]), 7),
		"stored, ill sized": append(bytes.Clone(good[:10]), 1, 2, 0, 2, 0),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := io.ReadAll(NewReader(bytes.NewReader(file), nil)); !errors.Is(err, ErrCorrupt) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestErrorsOfOthersPassThrough(t *testing.T) {
	t.Parallel()
	file := member(t, 6, content(6, 1<<20), nil)
	broken := errors.New("connection lost")
	r := io.MultiReader(bytes.NewReader(file[:1000]), iotest.ErrReader(broken))
	if _, err := io.ReadAll(NewReader(r, nil)); !errors.Is(err, broken) {
		t.Errorf("reader: %v", err)
	}
	visit := func(Checkpoint, []byte) error { return broken }
	if _, err := io.ReadAll(NewReader(bytes.NewReader(file), visit)); !errors.Is(err, broken) {
		t.Errorf("visit: %v", err)
	}
}

func TestImpossibleIndexesAreRefused(t *testing.T) {
	t.Parallel()
	file := member(t, 6, content(7, 1<<20), nil)
	for name, change := range map[string]func(x *Index){
		"a window less":     func(x *Index) { x.Windows.truncate(1) },
		"no checkpoints":    func(x *Index) { x.Checkpoints = nil; x.Windows.truncate(0) },
		"not from 0":        func(x *Index) { x.Checkpoints[0].Out = 1 },
		"before the file":   func(x *Index) { x.Checkpoints[0].In = -1 },
		"bits of two bytes": func(x *Index) { x.Checkpoints[1].Bits = 8 },
		"out backwards":     func(x *Index) { x.Checkpoints[1].Out = x.Checkpoints[2].Out },
		"in backwards":      func(x *Index) { x.Checkpoints[1].In = x.Checkpoints[2].In },
		"beyond the file":   func(x *Index) { x.Compressed = x.Checkpoints[len(x.Checkpoints)-1].In },
		"beyond the output": func(x *Index) { x.Uncompressed = x.Checkpoints[len(x.Checkpoints)-1].Out },
		"a bomb":            func(x *Index) { x.Uncompressed += MaxSpan },
		"a huge input":      func(x *Index) { x.Compressed += MaxSpan },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			x, _ := index(t, file, 100_000)
			change(x)
			if err := x.Check(); !errors.Is(err, ErrCorrupt) {
				t.Errorf("got %v", err)
			}
		})
	}
}

package seekable_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/referee-cri/referee/internal/fsimage"
	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/lazyblock"
	"github.com/referee-cri/referee/lazyblock/format/seekable"
)

// compress writes content in frames of the given length with another project's
// writer.
func compress(t testing.TB, content []byte, frame int) lazyblock.InMemory {
	t.Helper()
	return fsimage.SeekableZstd(t, content, frame)
}

// mixed is content of which every other stretch can be compressed.
func mixed(n int) []byte {
	random := rand.New(rand.NewPCG(3, 4))
	content := make([]byte, n)
	for i := range content {
		if i>>15&1 == 0 {
			content[i] = byte(random.Uint32())
		}
	}
	return content
}

func TestReadsWhatAnotherWriterWrote(t *testing.T) {
	t.Parallel()
	content := mixed(1_000_003)
	for _, frame := range []int{1 << 10, 100_000, 2 << 20} {
		t.Run(fmt.Sprint("frames of ", frame), func(t *testing.T) {
			t.Parallel()
			r, err := seekable.Open(t.Context(), compress(t, content, frame), nil)
			if err != nil {
				t.Fatal(err)
			}
			if r.Size() != int64(len(content)) {
				t.Fatalf("size %d, want %d", r.Size(), len(content))
			}
			var readers sync.WaitGroup
			for i := range 4 {
				readers.Go(func() {
					random := rand.New(rand.NewPCG(5, uint64(i)))
					for range 200 {
						off := random.IntN(len(content))
						p := make([]byte, random.IntN(200_000))
						want := content[off:min(len(content), off+len(p))]
						n, err := r.ReadRange(t.Context(), p, int64(off))
						if !bytes.Equal(p[:n], want) || (err != nil) != (n < len(p)) {
							t.Errorf("%d of %d bytes at %d: %v", n, len(p), off, err)
						}
					}
				})
			}
			readers.Wait()
			if n, err := r.ReadRange(t.Context(), make([]byte, 1), r.Size()); n != 0 || !errors.Is(err, io.EOF) {
				t.Errorf("at the end: %d, %v", n, err)
			}
			if err := r.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestBrokenTablesAreRefused(t *testing.T) {
	t.Parallel()
	good := compress(t, mixed(100_000), 30_000)
	le := binary.LittleEndian
	end := len(good)
	for name, tc := range map[string]struct {
		change func(b []byte) []byte
		code   reason.Code
		says   string
	}{
		"empty":                 {func([]byte) []byte { return nil }, reason.NotAttachable, "0 bytes"},
		"ordinary zstd":         {func(b []byte) []byte { return b[:le.Uint32(b[end-9-4*12:])] }, reason.NotAttachable, "from the start"},
		"cut":                   {func(b []byte) []byte { return b[:end-1] }, reason.NotAttachable, "from the start"},
		"no checksums":          {func(b []byte) []byte { b[end-5] = 0; return b }, reason.NotAttachable, "no checksums"},
		"reserved bits":         {func(b []byte) []byte { b[end-5] |= 4; return b }, reason.FormatCorrupt, "reserved"},
		"four billion frames":   {func(b []byte) []byte { le.PutUint32(b[end-9:], 0xFFFFFFFF); return b }, reason.FormatCorrupt, "4294967295"},
		"more frames than fit":  {func(b []byte) []byte { le.PutUint32(b[end-9:], 100_000); return b }, reason.FormatCorrupt, "100000 frames"},
		"fewer frames":          {func(b []byte) []byte { le.PutUint32(b[end-9:], 3); return b }, reason.FormatCorrupt, "in a frame"},
		"frame of another size": {func(b []byte) []byte { b[end-9-4*12]++; return b }, reason.FormatCorrupt, "compressed bytes"},
		"frame of four GiB":     {func(b []byte) []byte { le.PutUint32(b[end-9-4*12+4:], 0xFFFFFFF0); return b }, reason.FormatCorrupt, "span 0"},
		"something in front":    {func(b []byte) []byte { return append([]byte("x"), b...) }, reason.FormatCorrupt, "compressed bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := seekable.Open(t.Context(), lazyblock.InMemory(tc.change(bytes.Clone(good))), nil)
			if reason.Of(err) != tc.code || !strings.Contains(fmt.Sprint(err), tc.says) {
				t.Errorf("error %v (%s), want %s that says %q", err, reason.Of(err), tc.code, tc.says)
			}
		})
	}
}

func TestWrongFramesAreNotHandedOut(t *testing.T) {
	t.Parallel()
	content := mixed(100_000)
	good := compress(t, content, 30_000)
	for name, change := range map[string]func(b []byte){
		"other bytes":    func(b []byte) { b[20_000]++ },
		"other checksum": func(b []byte) { b[len(b)-9-4*12+8]++ },
		"other length":   func(b []byte) { b[len(b)-9-4*12+4]-- },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := bytes.Clone(good)
			change(b)
			r, err := seekable.Open(t.Context(), lazyblock.InMemory(b), nil)
			if err != nil {
				t.Fatal(err)
			}
			if n, err := r.ReadRange(t.Context(), make([]byte, 10), 0); n != 0 || reason.Of(err) != reason.FormatCorrupt {
				t.Errorf("%d bytes of a wrong frame: %v", n, err)
			}
			p := make([]byte, 1000) // of the next frame, which is right
			if _, err := r.ReadRange(t.Context(), p, 40_000); name != "other length" && (err != nil || !bytes.Equal(p, content[40_000:41_000])) {
				t.Errorf("a sound frame: %v", err)
			}
		})
	}
}

// rotten gives wrong bytes until they are invalidated.
type rotten struct {
	lazyblock.InMemory

	mu     sync.Mutex
	wrong  map[int64]bool // offsets whose bytes are flipped
	forgot int
}

func (r *rotten) ReadRange(ctx context.Context, p []byte, off int64) (int, error) {
	n, err := r.InMemory.ReadRange(ctx, p, off)
	r.mu.Lock()
	defer r.mu.Unlock()
	for at := range r.wrong {
		if at >= off && at < off+int64(n) {
			p[at-off] ^= 0xFF
		}
	}
	return n, err
}

func (r *rotten) Invalidate(_ context.Context, off, n int64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.forgot++
	for at := range r.wrong {
		if at >= off && at < off+n {
			delete(r.wrong, at)
		}
	}
	return nil
}

func TestWhatRottedInTheCacheIsReadAgain(t *testing.T) {
	t.Parallel()
	content := mixed(100_000)
	for _, lengths := range []int{30_000, 0} {
		good := compress(t, content, 30_000)
		name := "frames of one length"
		if lengths == 0 {
			good, name = uneven(t, content), "frames of several lengths"
		}
		end := int64(len(good))
		for what, at := range map[string][]int64{
			"magic":              {end - 1},
			"descriptor":         {end - 5},
			"number of frames":   {end - 9},
			"stored length":      {end - 9 - 12},
			"length of a frame":  {end - 9 - 3*12 + 4},
			"checksum":           {end - 9 - 12 + 8},
			"several of them":    {end - 1, end - 9 - 4*12 + 5, end - 9 - 2*12 + 8, 1000},
			"the first checksum": {end - 9 - 4*12 + 8},
		} {
			t.Run(name+", "+what, func(t *testing.T) {
				t.Parallel()
				r := &rotten{InMemory: good, wrong: map[int64]bool{}}
				for _, off := range at {
					r.wrong[off] = true
				}
				reader, err := seekable.Open(t.Context(), r, nil)
				if err != nil {
					t.Fatal(err)
				}
				p := make([]byte, len(content))
				if _, err := reader.ReadRange(t.Context(), p, 0); err != nil || !bytes.Equal(p, content) {
					t.Errorf("wrong bytes, or %v", err)
				}
				if r.forgot == 0 {
					t.Error("nothing was invalidated")
				}
			})
		}
	}
}

// uneven compresses content in four frames of different lengths.
func uneven(t *testing.T, content []byte) lazyblock.InMemory {
	t.Helper()
	le := binary.LittleEndian
	var frames, table []byte
	for _, part := range [][]byte{content[:30_000], content[30_000:50_000], content[50_000:90_000], content[90_000:]} {
		whole := compress(t, part, len(part))
		stored := len(whole) - 9 - 12 - 8
		frames = append(frames, whole[:stored]...)
		table = append(table, whole[stored+8:][:12]...)
	}
	frames = le.AppendUint32(frames, 0x184D2A5E)
	frames = le.AppendUint32(frames, uint32(len(table)+9))
	frames = append(frames, table...)
	frames = append(le.AppendUint32(frames, uint32(len(table)/12)), 0x80)
	return le.AppendUint32(frames, 0x8F92EAB1)
}

func FuzzOpen(f *testing.F) {
	f.Add([]byte(compress(f, mixed(3000), 1000)))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := seekable.Open(t.Context(), lazyblock.InMemory(b), nil)
		if err != nil {
			return
		}
		p := make([]byte, min(r.Size(), 1<<20))
		if n, err := r.ReadRange(t.Context(), p, 0); n < len(p) && (err == nil || errors.Is(err, io.EOF)) {
			t.Errorf("%d of %d bytes: %v", n, len(p), err)
		}
	})
}

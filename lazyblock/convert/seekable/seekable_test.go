package seekable_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/cespare/xxhash/v2"
	"github.com/klauspost/compress/zstd"

	"github.com/referee-cri/referee/lazyblock/convert/seekable"
)

func compress(t *testing.T, plain []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	n, err := seekable.Compress(t.Context(), &out, bytes.NewReader(plain))
	if err != nil || n != int64(out.Len()) {
		t.Fatalf("wrote %d bytes, said %d, %v", out.Len(), n, err)
	}
	return out.Bytes()
}

// TestEachFrameStandsAlone reads the table as the specification says, from the end.
func TestEachFrameStandsAlone(t *testing.T) {
	t.Parallel()
	noise := make([]byte, 3*seekable.FrameSize+1)
	_, _ = rand.NewChaCha8([32]byte{}).Read(noise) // never fails
	decoder, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(decoder.Close)
	for name, plain := range map[string][]byte{
		"nothing":             nil,
		"a byte":              {1},
		"one frame":           make([]byte, seekable.FrameSize),
		"a byte more":         make([]byte, seekable.FrameSize+1),
		"text":                []byte(strings.Repeat("text ", 200_000)),
		"what has no pattern": noise,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			packed := compress(t, plain)
			le := binary.LittleEndian
			footer := packed[len(packed)-9:]
			frames := int(le.Uint32(footer))
			if le.Uint32(footer[5:]) != 0x8F92EAB1 || footer[4] != 0x80 {
				t.Fatalf("footer %x", footer)
			}
			tableAt := len(packed) - 9 - 12*frames
			if head := packed[tableAt-8:]; le.Uint32(head) != 0x184D2A5E || int(le.Uint32(head[4:])) != 12*frames+9 {
				t.Fatalf("table's frame begins %x", head[:8])
			}
			at, restored := 0, []byte{}
			for i := range frames {
				entry := packed[tableAt+12*i:]
				size := int(le.Uint32(entry))
				frame, err := decoder.DecodeAll(packed[at:at+size], nil)
				if err != nil || len(frame) != int(le.Uint32(entry[4:])) || !bytes.Equal(le.AppendUint32(nil, uint32(xxhash.Sum64(frame))), entry[8:12]) {
					t.Fatalf("frame %d: %d bytes, %v, table says %x", i, len(frame), err, entry[:12])
				}
				at, restored = at+size, append(restored, frame...)
			}
			if at != tableAt-8 || !bytes.Equal(restored, plain) {
				t.Errorf("%d bytes in %d of frames, want %d in %d", len(restored), at, len(plain), tableAt-8)
			}
			if !bytes.Equal(packed, compress(t, plain)) {
				t.Error("a second run gave other bytes")
			}
		})
	}
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, io.ErrClosedPipe }

func TestErrorsEndCompression(t *testing.T) {
	t.Parallel()
	if _, err := seekable.Compress(t.Context(), io.Discard, io.MultiReader(strings.NewReader("some"), broken{})); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := seekable.Compress(ctx, io.Discard, strings.NewReader("some")); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

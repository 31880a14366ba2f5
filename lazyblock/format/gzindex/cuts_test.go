package gzindex

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
)

// TestCutsOverlapAndEndAnywhere inflates from every block to somewhere behind it,
// over ends of members too.
func TestCutsOverlapAndEndAnywhere(t *testing.T) {
	t.Parallel()
	file := members(t, 6, content(9, 2_000_000), 400_000)
	var cuts Cuts
	var places []Checkpoint
	data, err := io.ReadAll(NewReader(bytes.NewReader(file), func(at Checkpoint, window []byte) error {
		places = append(places, at)
		return cuts.Add(at.Bits, window)
	}))
	if err != nil {
		t.Fatal(err)
	}
	cuts.Done()
	if cuts.Len() != len(places) || len(places) < 10 {
		t.Fatalf("%d cuts at %d places", cuts.Len(), len(places))
	}
	rng := rand.New(rand.NewPCG(1, 1))
	for i, at := range places {
		left := len(data) - int(at.Out)
		dst := make([]byte, rng.IntN(min(left, 200_000)+1))
		if err := cuts.Decode(i, dst, file[at.Start():]); err != nil || !bytes.Equal(dst, data[at.Out:][:len(dst)]) {
			t.Errorf("cut %d of %d bytes: wrong bytes, or %v", i, len(dst), err)
		}
	}
	all := make([]byte, len(data)-int(places[0].Out))
	if err := cuts.Decode(0, all, file[places[0].Start():len(file)/2]); !errors.Is(err, ErrCorrupt) {
		t.Errorf("half of a cut: %v", err)
	}
	if err := cuts.Decode(0, append(all, 0), file[places[0].Start():]); !errors.Is(err, ErrCorrupt) {
		t.Errorf("more than there is: %v", err)
	}
	if err := cuts.Add(8, nil); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a byte of nine bits: %v", err)
	}
}

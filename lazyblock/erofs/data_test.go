package erofs

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
)

func TestDataLeavesZerosOut(t *testing.T) {
	t.Parallel()
	const block = 4096
	random := rand.New(rand.NewPCG(1, 2))
	for round := range 10 {
		img := &image{}
		data := NewData(img, 12, 3, maxBlocks)
		var extents []Extent
		var contents [][]byte
		for range 1 + random.IntN(20) {
			content := make([]byte, random.IntN(300*block))
			for i := 0; i < len(content); i += block {
				if random.IntN(2) == 0 {
					content[i+random.IntN(min(block, len(content)-i))] = 1
				}
			}
			extent, err := data.Append(bytes.NewReader(content), int64(len(content)))
			if err != nil {
				t.Fatal(err)
			}
			extents, contents = append(extents, extent), append(contents, content)
		}
		end := data.Next()
		if err := data.Flush(); err != nil {
			t.Fatal(err)
		}
		if data.Next() != end {
			t.Errorf("flush moved the end from %d to %d", end, data.Next())
		}
		disk := make([]byte, int(end)*block)
		copy(disk, img.bytes)
		for i, content := range contents {
			at := int(extents[i].Block) * block
			if !bytes.Equal(disk[at:at+len(content)], content) {
				t.Fatalf("round %d: file %d of %d bytes differs", round, i, len(content))
			}
		}
		for at := range img.written {
			if start := at / block * block; bytes.Equal(disk[start:start+block], make([]byte, block)) {
				t.Fatalf("round %d: block of zeros at %d was written", round, start)
			}
		}
	}
}

func TestDataStopsLeavingZerosOutWhenRunsAreMany(t *testing.T) {
	t.Parallel()
	img := &image{}
	data := NewData(img, 12, 1, maxBlocks)
	data.runs = maxRuns - 1
	content := make([]byte, 6*4096)
	content[0], content[2*4096], content[5*4096] = 1, 1, 1
	if _, err := data.Append(bytes.NewReader(content), int64(len(content))); err != nil {
		t.Fatal(err)
	}
	if err := data.Flush(); err != nil {
		t.Fatal(err)
	}
	if got := len(img.written); got != 6*8 {
		t.Errorf("%d sectors written, want all 48: the run that reaches the limit goes on", got)
	}
}

func TestDataErrors(t *testing.T) {
	t.Parallel()
	data := NewData(&image{}, 12, 1, 3)
	if _, err := data.Append(bytes.NewReader(nil), 8193); !errors.Is(err, ErrDiskFull) {
		t.Errorf("three blocks where two are left: %v", err)
	}
	if _, err := data.Append(bytes.NewReader(make([]byte, 10)), 8192); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("ten bytes of 8192: %v", err)
	}
}

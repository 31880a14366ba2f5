package cache

import (
	"bytes"
	"errors"
	"runtime"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func sampleMap() *mapFile {
	return &mapFile{size: 70*64*kib - 5, blockSize: 64 * kib, id: dataID{1, 2, 3}, words: []uint64{0x8000000000000001, 0x20}}
}

func TestMapRoundTrip(t *testing.T) {
	t.Parallel()
	m := sampleMap()
	raw := m.encode("name")
	got, err := decodeMap(raw, "name", m.size, m.blockSize)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(m, got, cmp.AllowUnexported(mapFile{})); diff != "" {
		t.Errorf("decoded (-want +got):\n%s", diff)
	}
	if want := 3*64*kib - 5; got.bytes() != want {
		t.Errorf("%d bytes present, want %d", got.bytes(), want)
	}
}

func TestDamagedMapIsRefused(t *testing.T) {
	t.Parallel()
	m := sampleMap()
	raw := m.encode("name")
	for i := range raw {
		damaged := bytes.Clone(raw)
		damaged[i] ^= 0x10
		if _, err := decodeMap(damaged, "name", m.size, m.blockSize); !errors.Is(err, errMap) {
			t.Errorf("byte %d changed: %v", i, err)
		}
	}
	for n := range raw {
		if _, err := decodeMap(raw[:n], "name", m.size, m.blockSize); !errors.Is(err, errMap) {
			t.Errorf("cut to %d: %v", n, err)
		}
	}
	beyond := sampleMap()
	beyond.words[1] = 1 << 6
	for name, err := range map[string]error{
		"of another blob":    second(decodeMap(raw, "other", m.size, m.blockSize)),
		"of another size":    second(decodeMap(raw, "name", m.size+1, m.blockSize)),
		"of other blocks":    second(decodeMap(raw, "name", m.size, 2*m.blockSize)),
		"longer than it is":  second(decodeMap(append(bytes.Clone(raw), 0), "name", m.size, m.blockSize)),
		"blocks past itself": second(decodeMap(beyond.encode("name"), "name", m.size, m.blockSize)),
	} {
		if !errors.Is(err, errMap) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func second(_ *mapFile, err error) error { return err }

func FuzzDecodeMap(f *testing.F) {
	m := sampleMap()
	f.Add(m.encode("name"), m.size, m.blockSize)
	f.Add([]byte(mapMagic), int64(0), 4*kib)
	f.Add(make([]byte, 72), int64(0), 64*kib)
	f.Fuzz(func(t *testing.T, raw []byte, size, blockSize int64) {
		if size < 0 || size > maxBlobSize || !powerOfTwo(blockSize) || blockSize < 4*kib || blockSize > mib {
			return // checked before a map is read
		}
		// Most of the decoder is behind the checksum: also try with a right one.
		if len(raw) > 32 {
			sum := mapSum(raw[:len(raw)-32], "name")
			raw = append(raw[:len(raw)-32:len(raw)-32], sum[:]...)
		}
		got, err := decodeMap(raw, "name", size, blockSize)
		if err != nil {
			return
		}
		if again := got.encode("name"); !bytes.Equal(again, raw) {
			t.Fatalf("%x decodes and encodes to %x", raw, again)
		}
		if n := got.bytes(); n < 0 || n > size {
			t.Fatalf("%d bytes of %d present", n, size)
		}
	})
}

func TestBitmap(t *testing.T) {
	t.Parallel()
	const blocks = 200
	for first := int64(0); first < blocks; first += 7 {
		for end := first; end <= blocks; end += 5 {
			b := newBitmap(blocks)
			b.add(first, end)
			for i := int64(0); i < blocks; i++ {
				if b.has(i) != (i >= first && i < end) {
					t.Fatalf("add [%d, %d): has(%d) = %v", first, end, i, b.has(i))
				}
			}
			if !b.hasAll(first, end) || (end < blocks && b.hasAll(first, end+1)) || (first > 0 && b.hasAll(first-1, end)) {
				t.Fatalf("hasAll around [%d, %d) is wrong", first, end)
			}
			if n := b.remove(first/2, end); n != int(end-first) {
				t.Fatalf("remove [%d, %d) of [%d, %d): %d", first/2, end, first, end, n)
			}
		}
	}
}

// TestNoGoroutineIsLeft does not run in parallel: it counts.
func TestNoGoroutineIsLeft(t *testing.T) { //nolint:paralleltest // counts goroutines
	before := runtime.NumGoroutine()
	src := newSource(1, 8*mib)
	s, err := Open(t.TempDir(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	b := openBlob(t, s, src)
	for off := int64(0); off < 4*mib; off += 128 * kib {
		check(t, b, src, off, 128*kib) // leaves read-ahead under way
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(5 * time.Second)
	for runtime.NumGoroutine() > before {
		if time.Now().After(deadline) {
			stacks := make([]byte, 1<<16)
			t.Fatalf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), before, stacks[:runtime.Stack(stacks, true)])
		}
		runtime.Gosched()
	}
}

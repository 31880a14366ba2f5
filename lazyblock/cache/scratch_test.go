package cache

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

func newScratch(t *testing.T, s *Store) *Scratch {
	t.Helper()
	c, err := s.Scratch()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return c
}

func TestScratchCountsAndGoes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := openStore(t, dir, Options{})
	c := newScratch(t, s)
	content := bytes.Repeat([]byte("decoded "), 8192)
	for _, off := range []int64{0, 10 * mib} {
		if _, err := c.WriteAt(content, off); err != nil {
			t.Fatal(err)
		}
	}
	got := make([]byte, len(content))
	if _, err := c.ReadAt(got, 10*mib); err != nil || !bytes.Equal(got, content) {
		t.Errorf("read back: %v, equal: %t", err, bytes.Equal(got, content))
	}
	if stats := s.Stats(); stats.Scratch != 2*int64(len(content)) || stats.Bytes != stats.Scratch {
		t.Errorf("%d bytes, %d of them scratch, want %d", stats.Bytes, stats.Scratch, 2*len(content))
	}
	if names, err := filepath.Glob(filepath.Join(dir, "v1", "*")); err != nil || len(names) > 0 {
		t.Errorf("it has a name: %v, %v", names, err)
	}
	for range 2 {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	if stats := s.Stats(); stats.Bytes != 0 || stats.Scratch != 0 {
		t.Errorf("%d bytes, %d of them scratch, after it was closed", stats.Bytes, stats.Scratch)
	}
	if _, err := c.ReadAt(got, 0); err == nil {
		t.Error("read after it was closed")
	}
	if _, err := c.WriteAt(got, 0); err == nil {
		t.Error("written after it was closed")
	}
}

// TestBlobsComeBeforeScratch: it takes no room from blobs, gives up what it has
// where they need it, and then never shows a hole for what was there.
func TestBlobsComeBeforeScratch(t *testing.T) {
	t.Parallel()
	s := openStore(t, t.TempDir(), Options{MaxBytes: 8 * mib, LowBytes: 6 * mib})
	c := newScratch(t, s)
	p := make([]byte, mib)
	wrote := 0
	for i := range int64(10) {
		if _, err := c.WriteAt(p, i*mib); err == nil {
			wrote++
		}
	}
	if wrote != 6 {
		t.Fatalf("wrote %d MiB, want up to the low mark of 6", wrote)
	}
	if err := s.Spare(6 * mib); err != nil {
		t.Errorf("what the scratch takes is not to be had: %v", err)
	}
	if err := s.Spare(7 * mib); err == nil {
		t.Error("more is to be had than the low mark")
	}
	src := newSource(1, 7*mib)
	b := openBlob(t, s, src)
	check(t, b, src, 0, 7*mib)
	if kept := b.Cached(); kept != 7*mib {
		t.Errorf("%d bytes of the blob are kept, want all", kept)
	}
	if stats := s.Stats(); stats.Scratch != 0 || stats.Bytes != 7*mib {
		t.Errorf("%d bytes, %d of them scratch, want 7 MiB and none", stats.Bytes, stats.Scratch)
	}
	if n, err := c.ReadAt(p, 0); err == nil {
		t.Errorf("read %d bytes of what was given up", n)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(src.desc().Digest); err != nil {
		t.Fatal(err)
	}
	if _, err := c.WriteAt(p, 9*mib); err == nil {
		t.Error("written after it was given up: what is before that would read as zeros")
	}
}

func TestScratchWhileBlobsTakeItsRoom(t *testing.T) {
	t.Parallel()
	s := openStore(t, t.TempDir(), Options{MaxBytes: 4 * mib, LowBytes: 3 * mib})
	done := make(chan struct{})
	go func() { // ends by itself; waited for below
		defer close(done)
		for i := range 40 {
			src := newSource(byte(i+1), mib)
			b := openBlob(t, s, src)
			check(t, b, src, 0, mib)
			_ = b.Close() // a second one is made by openBlob
		}
	}()
	rng := rand.New(rand.NewPCG(1, 2))
	for working := true; working; {
		c := newScratch(t, s)
		there := map[int64]bool{}
		for range 50 {
			off := rng.Int64N(64)
			want := bytes.Repeat([]byte{byte(off + 1)}, 64<<10)
			if _, err := c.WriteAt(want, off<<16); err == nil {
				there[off] = true
			}
			got := make([]byte, 64<<10)
			if _, err := c.ReadAt(got, off<<16); err == nil && there[off] && !bytes.Equal(got, want) {
				t.Fatalf("wrong bytes at %d", off<<16)
			}
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		select {
		case <-done:
			working = false
		default:
		}
	}
	if stats := s.Stats(); stats.Scratch != 0 || stats.Bytes != s.total() {
		t.Errorf("%d bytes, %d of them scratch, the blobs have %d", stats.Bytes, stats.Scratch, s.total())
	}
}

func TestScratchYieldsToOthersOnTheFileSystem(t *testing.T) {
	t.Parallel()
	dir := smallDisk(t, "16m")
	s := openStore(t, dir, Options{KeepFree: -1, SpareOfDisk: 50})
	first, second := newScratch(t, s), newScratch(t, s)
	p := make([]byte, mib)
	for i, c := range []*Scratch{first, second, first} {
		if _, err := c.WriteAt(p, int64(i)*mib); err != nil {
			t.Fatal(err)
		}
	}
	s.yieldScratch()
	if stats := s.Stats(); stats.Scratch != 3*mib {
		t.Errorf("%d bytes of scratch with half of the disk free, want 3 MiB", stats.Scratch)
	}
	if err := os.WriteFile(filepath.Join(dir, "other"), make([]byte, 6*mib), 0o600); err != nil {
		t.Fatal(err)
	}
	s.yieldScratch()
	if stats := s.Stats(); stats.Scratch != mib {
		t.Errorf("%d bytes of scratch, want that of the smaller file: 1 MiB", stats.Scratch)
	}
}

func TestLeftScratchIsRemoved(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	left := filepath.Join(dir, "v1", scratchPrefix+"LEFT")
	if err := os.MkdirAll(filepath.Dir(left), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(left, []byte("decoded"), 0o600); err != nil {
		t.Fatal(err)
	}
	openStore(t, dir, Options{})
	if _, err := os.Lstat(left); !os.IsNotExist(err) {
		t.Errorf("the file that a former process left: %v", err)
	}
}

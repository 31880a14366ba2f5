package span

import (
	"errors"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/referee-cri/referee/lazyblock"
)

// scratchFile is a Scratch that can be lost.
type scratchFile struct {
	*os.File

	lost   atomic.Bool
	closed *atomic.Int64
}

var errLost = errors.New("lost")

func (f *scratchFile) ReadAt(p []byte, off int64) (int, error) {
	if f.lost.Load() {
		return 0, errLost
	}
	return f.File.ReadAt(p, off)
}

func (f *scratchFile) WriteAt(p []byte, off int64) (int, error) {
	if f.lost.Load() {
		return 0, errLost
	}
	return f.File.WriteAt(p, off)
}

func (f *scratchFile) Close() error {
	f.closed.Add(1)
	return f.File.Close()
}

// scratches makes scratch files and remembers them.
type scratches struct {
	t      *testing.T
	closed atomic.Int64

	mu   sync.Mutex
	made []*scratchFile
}

func (s *scratches) create() (Scratch, error) {
	file, err := os.CreateTemp(s.t.TempDir(), "")
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.made = append(s.made, &scratchFile{File: file, closed: &s.closed})
	return s.made[len(s.made)-1], nil
}

// largeSpans is a sequence of n spans that are all worth writing down.
func largeSpans(n int) *sequence {
	rng := rand.New(rand.NewPCG(11, 11))
	s := &sequence{blob: &memoryBlob{}}
	for range n {
		span := Span{At: int64(len(s.plain)), Size: minScratch + rng.Int64N(minScratch)}
		for range span.Size {
			s.plain = append(s.plain, byte(rng.Uint32()))
		}
		s.spans = append(s.spans, span)
		s.sums = append(s.sums, crc32.ChecksumIEEE(s.plain[span.At:]))
	}
	return remake(s)
}

// expectRandom reads n times anywhere, from several goroutines.
func (s *sequence) expectRandom(t *testing.T, r *Reader, n int) {
	t.Helper()
	var group sync.WaitGroup
	for seed := range uint64(4) {
		group.Go(func() {
			rng := rand.New(rand.NewPCG(seed, 1))
			for range n / 4 {
				s.expect(t, r, rng.IntN(len(s.plain)), 1+rng.IntN(3*minScratch))
			}
		})
	}
	group.Wait()
}

// expectOnDisk is expectRandom where nothing need be decoded.
func (s *sequence) expectOnDisk(t *testing.T, r *Reader, n int) {
	t.Helper()
	before := s.decoded.Load()
	s.expectRandom(t, r, n)
	if n := s.decoded.Load() - before; n != 0 {
		t.Errorf("decoded %d spans that are on disk", n)
	}
}

func TestWhatLeavesTheMemoryIsReadBack(t *testing.T) {
	t.Parallel()
	files := &scratches{t: t}
	s := largeSpans(40)
	r := s.open(t, Options{Memory: NewMemory(2*minScratch, files.create)})
	s.expectRandom(t, r, 400)
	s.expect(t, r, 0, len(s.plain))
	// Those that two readers miss at the same time may be decoded twice: between
	// leaving the memory and being on disk.
	if n := s.decoded.Load(); n > 44 {
		t.Errorf("%d spans were decoded %d times", len(s.spans), n)
	}
	s.expectOnDisk(t, r, 400)
	if len(r.memory.spans) != 0 {
		t.Errorf("%d spans are in memory, with all of them on disk", len(r.memory.spans))
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if made, closed := len(files.made), files.closed.Load(); made != 1 || closed != 1 {
		t.Errorf("%d scratch files made, %d closed, want one", made, closed)
	}
}

func TestALostScratchCostsOnlyTime(t *testing.T) {
	t.Parallel()
	files := &scratches{t: t}
	s := largeSpans(20)
	r := s.open(t, Options{Memory: NewMemory(2*minScratch, files.create)})
	s.expect(t, r, 0, len(s.plain))
	files.made[0].lost.Store(true)
	s.expectRandom(t, r, 200)
	if n := s.decoded.Load(); n < 40 {
		t.Errorf("decoded %d spans, want all 20 of them again", n)
	}
	files.made[0].lost.Store(false)
	s.expect(t, r, 0, len(s.plain))
	s.expectOnDisk(t, r, 200)
}

func TestWithoutAScratchSpansAreDecodedAgain(t *testing.T) {
	t.Parallel()
	tries := 0
	s := largeSpans(20)
	r := s.open(t, Options{Memory: NewMemory(2*minScratch, func() (Scratch, error) {
		tries++
		return nil, errLost
	})})
	for range 3 {
		s.expect(t, r, 0, len(s.plain))
	}
	if n := s.decoded.Load(); n != 60 || tries != 60 {
		t.Errorf("decoded %d spans, tried %d times to make a scratch; want 60 each", n, tries)
	}
}

func TestWhatNobodyWaitsForIsNotWrittenDown(t *testing.T) {
	t.Parallel()
	files := &scratches{t: t}
	s := largeSpans(20)
	r := s.open(t, Options{Memory: NewMemory(2*minScratch, files.create)})
	p := make([]byte, len(s.plain))
	if _, err := r.ReadRange(lazyblock.WithPriority(t.Context(), lazyblock.Background), p, 0); err != nil {
		t.Fatal(err)
	}
	if len(files.made) != 0 {
		t.Error("a background read made a scratch file")
	}
	s.expect(t, r, 0, len(s.plain))
	if len(files.made) != 1 {
		t.Errorf("%d scratch files made by a reader who waits, want 1", len(files.made))
	}
}

func TestSmallSpansAreNotWrittenDown(t *testing.T) {
	t.Parallel()
	files := &scratches{t: t}
	s := remake(makeSequence(rand.New(rand.NewPCG(12, 12)), 50, minScratch-1, false))
	r := s.open(t, Options{Memory: NewMemory(minScratch, files.create)})
	s.expectRandom(t, r, 100)
	if len(files.made) != 0 {
		t.Error("a scratch file was made")
	}
}

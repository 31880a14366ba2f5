package span

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/referee-cri/referee/internal/reason"
)

func TestReadsAreTheDecodedBytes(t *testing.T) {
	t.Parallel()
	for name, shuffled := range map[string]bool{"in the blob's order": false, "shuffled in the blob": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rng := rand.New(rand.NewPCG(1, 2))
			s := makeSequence(rng, 200, 3000, shuffled)
			r := s.open(t, Options{Memory: NewMemory(50_000, nil)})
			s.expect(t, r, 0, len(s.plain))
			s.expect(t, r, 0, len(s.plain)+1)
			for range 300 {
				off := rng.IntN(len(s.plain))
				s.expect(t, r, off, 1+rng.IntN(20_000))
			}
		})
	}
}

func TestConcurrentReadersOfOneMemory(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(3, 4))
	memory := NewMemory(100_000, nil)
	var group sync.WaitGroup
	for range 3 {
		s := makeSequence(rng, 100, 5000, true)
		r := s.open(t, Options{Memory: memory})
		for seed := range uint64(8) {
			group.Go(func() {
				rng := rand.New(rand.NewPCG(seed, seed))
				for range 50 {
					s.expect(t, r, rng.IntN(len(s.plain)), 1+rng.IntN(30_000))
				}
			})
		}
	}
	group.Wait()
	if memory.kept > memory.limit {
		t.Errorf("%d bytes are kept, want at most %d", memory.kept, memory.limit)
	}
}

func TestASpanIsDecodedOnceForAllWhoWait(t *testing.T) {
	t.Parallel()
	s := makeSequence(rand.New(rand.NewPCG(5, 6)), 1, 10_000, false)
	s.raw = nil
	s = remake(s)
	arrived, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	s.blob.before = func(int64, []byte) error {
		once.Do(func() { close(arrived) })
		<-goOn
		return nil
	}
	r := s.open(t, Options{})
	var group sync.WaitGroup
	at := int(s.spans[0].At)
	group.Go(func() { s.expect(t, r, at, 10) })
	<-arrived
	for range 5 {
		group.Go(func() { s.expect(t, r, at, 20) })
	}
	close(goOn)
	group.Wait()
	s.expect(t, r, at, 30)
	if n := s.decoded.Load(); n != 1 {
		t.Errorf("decoded %d times, want once", n)
	}
}

// remake stores all spans scrambled, in order and without gaps.
func remake(s *sequence) *sequence {
	s.raw, s.blob.data = nil, nil
	for i := range s.spans {
		span := &s.spans[i]
		span.Off, span.Stored = int64(len(s.blob.data)), span.Size
		for _, c := range s.plain[span.At:span.end()] {
			s.blob.data = append(s.blob.data, c^scramble)
		}
	}
	return s
}

func TestNeighboursAreFetchedTogether(t *testing.T) {
	t.Parallel()
	s := remake(makeSequence(rand.New(rand.NewPCG(7, 8)), 100, 1000, false))
	r := s.open(t, Options{})
	s.expect(t, r, 0, len(s.plain))
	if s.blob.reads != 1 {
		t.Errorf("%d reads of the blob, want 1", s.blob.reads)
	}
}

func TestSpansReadInPartStayInMemoryAndWholeOnesDoNot(t *testing.T) {
	t.Parallel()
	s := remake(makeSequence(rand.New(rand.NewPCG(9, 9)), 2, 1000, false))
	r := s.open(t, Options{})
	first := s.spans[0]
	for range 3 {
		s.expect(t, r, int(first.At), 1)
	}
	if n := s.decoded.Load(); n != 1 {
		t.Errorf("decoded %d times for parts, want once", n)
	}
	s.expect(t, r, int(first.At), int(first.Size))
	if len(r.memory.spans) != 0 || r.memory.kept != 0 {
		t.Errorf("%d spans of %d bytes are kept after one was read whole", len(r.memory.spans), r.memory.kept)
	}
	s.expect(t, r, int(first.At), 1)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if len(r.memory.spans) != 0 || r.memory.kept != 0 {
		t.Errorf("%d spans of %d bytes are kept after Close", len(r.memory.spans), r.memory.kept)
	}
	if _, err := r.ReadRange(t.Context(), make([]byte, 1), 0); err == nil {
		t.Error("read after Close")
	}
}

func TestWrongBytesAreFetchedOnceMore(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		cached bool
		bad    int // how many reads of the blob are spoilt
		want   reason.Code
	}{
		"rotten in the cache":  {true, 1, reason.None},
		"wrong at the origin":  {true, 1000, reason.FormatCorrupt},
		"nothing can be asked": {false, 1, reason.FormatCorrupt},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := remake(makeSequence(rand.New(rand.NewPCG(10, 10)), 1, 1000, false))
			s.blob.after = func(_ int64, p []byte) {
				if tc.bad--; tc.bad >= 0 {
					p[len(p)/2] ^= 1
				}
			}
			r := s.open(t, Options{})
			if tc.cached {
				r.blob = cachedBlob{s.blob}
			}
			_, err := r.ReadRange(t.Context(), make([]byte, 1), s.spans[0].At)
			if got := reason.Of(err); got != tc.want {
				t.Fatalf("error %v has code %q, want %q", err, got, tc.want)
			}
			if tc.cached && (len(s.blob.invalidated) != 1 || s.blob.invalidated[0].Stored != s.spans[0].Stored) {
				t.Errorf("invalidated %v, want the span", s.blob.invalidated)
			}
			s.blob.after = nil
			s.expect(t, r, 0, len(s.plain)) // an error is not remembered
		})
	}
}

func TestAReaderWhoGivesUpLeavesTheOthersAlone(t *testing.T) {
	t.Parallel()
	s := remake(makeSequence(rand.New(rand.NewPCG(11, 11)), 1, 1000, false))
	ctx, cancel := context.WithCancel(t.Context())
	arrived, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	s.blob.before = func(int64, []byte) error {
		first := false
		once.Do(func() { first = true })
		if first {
			close(arrived)
			<-goOn
		}
		return nil
	}
	r := s.open(t, Options{})
	var group sync.WaitGroup
	group.Go(func() {
		if _, err := r.ReadRange(ctx, make([]byte, 1), s.spans[0].At); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled read: %v", err)
		}
	})
	<-arrived
	group.Go(func() { s.expect(t, r, 0, len(s.plain)) })
	cancel()
	close(goOn)
	group.Wait()
}

func TestSpansThatCannotBeAreRefused(t *testing.T) {
	t.Parallel()
	blob := &memoryBlob{data: make([]byte, 100)}
	for name, tc := range map[string]struct {
		spans []Span
		opts  Options
	}{
		"no bytes":            {[]Span{{0, 0, 0, 10}}, Options{}},
		"negative address":    {[]Span{{-1, 2, 0, 10}}, Options{}},
		"end overflows":       {[]Span{{1, 1<<63 - 1, 0, 10}}, Options{}},
		"too large":           {[]Span{{0, MaxSize + 1, 0, 10}}, Options{}},
		"nothing stored":      {[]Span{{0, 1, 0, 0}}, Options{}},
		"behind the blob":     {[]Span{{0, 1, 91, 10}}, Options{}},
		"stored overflows":    {[]Span{{0, 1, 1<<63 - 1, 10}}, Options{}},
		"overlap":             {[]Span{{0, 10, 0, 10}, {9, 10, 0, 10}}, Options{}},
		"behind the end":      {[]Span{{0, 10, 0, 10}}, Options{Size: 9}},
		"raw of another size": {[]Span{{0, 11, 0, 10}}, Options{Raw: func(int) bool { return true }}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := New(blob, tc.spans, nil, tc.opts); reason.Of(err) != reason.FormatCorrupt {
				t.Errorf("error %v, want one that calls the format corrupt", err)
			}
		})
	}
}

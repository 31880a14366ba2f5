package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/internal/eventually"
	"github.com/referee-cri/referee/internal/reason"
)

const (
	kib = int64(1) << 10
	mib = int64(1) << 20
)

// source is an origin in memory that logs what it is asked for.
type source struct {
	content []byte
	hook    func(ctx context.Context, off int64, n int) error // before an answer

	mu    sync.Mutex
	asked [][2]int64 // off, n
}

func newSource(seed byte, n int64) *source {
	s := &source{content: make([]byte, n)}
	random := rand.NewChaCha8([32]byte{seed})
	_, _ = random.Read(s.content) // never fails
	return s
}

func (s *source) Size() int64 { return int64(len(s.content)) }

func (s *source) desc() ocispec.Descriptor {
	return ocispec.Descriptor{Digest: digest.FromBytes(s.content), Size: s.Size()}
}

func (s *source) ReadRange(ctx context.Context, p []byte, off int64) (int, error) {
	s.mu.Lock()
	s.asked = append(s.asked, [2]int64{off, int64(len(p))})
	s.mu.Unlock()
	if s.hook != nil {
		if err := s.hook(ctx, off, len(p)); err != nil {
			return 0, err
		}
	}
	if n := copy(p, s.content[off:]); n < len(p) {
		return n, io.EOF
	}
	return len(p), nil
}

// requests returns and forgets what was asked.
func (s *source) requests() [][2]int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	asked := s.asked
	s.asked = nil
	return asked
}

func (s *source) fetched() (n int64) {
	for _, r := range s.requests() {
		n += r[1]
	}
	return n
}

// openStore opens a store that guesses only where a test asks for it, since most
// count what is fetched.
func openStore(t testing.TB, dir string, opts Options) *Store {
	t.Helper()
	if opts.Guess == 0 {
		opts.Guess = -1
	}
	s, err := Open(dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func openBlob(t testing.TB, s *Store, src *source) *Blob {
	t.Helper()
	b, err := s.Blob(src.desc(), src)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() }) // most tests have closed it themselves
	return b
}

func check(t testing.TB, b *Blob, src *source, off, n int64) {
	t.Helper()
	p := make([]byte, n)
	got, err := b.ReadRange(t.Context(), p, off)
	if int64(got) != n || err != nil {
		t.Errorf("read %d at %d: %d, %v", n, off, got, err)
	} else if !bytes.Equal(p, src.content[off:off+n]) {
		t.Errorf("read %d at %d: wrong bytes", n, off)
	}
}

func TestMissesAreAlignedAndMerged(t *testing.T) {
	t.Parallel()
	type read struct{ off, n int64 }
	for name, tc := range map[string]struct {
		reads []read
		want  [][2]int64
	}{
		"a small miss fetches an aligned piece":  {[]read{{262*kib + 7, 10}}, [][2]int64{{256 * kib, 256 * kib}}},
		"it waits for little in front of it":     {[]read{{302*kib + 7, 10}}, [][2]int64{{284 * kib, 228 * kib}}},
		"the second read of it fetches nothing":  {[]read{{0, 10}, {100, 1000}, {255 * kib, kib}}, [][2]int64{{0, 256 * kib}}},
		"neighbouring misses become one request": {[]read{{200 * kib, 200 * kib}}, [][2]int64{{184 * kib, 328 * kib}}},
		"a hole is filled, not what is there": {
			[]read{{256 * kib, 10}, {768 * kib, 10}, {300 * kib, 500 * kib}},
			[][2]int64{{256 * kib, 256 * kib}, {768 * kib, 256 * kib}, {512 * kib, 256 * kib}},
		},
		"requests are not longer than allowed": {
			[]read{{0, 9 * mib}},
			[][2]int64{
				{0, mib},
				{mib, mib},
				{2 * mib, mib},
				{3 * mib, mib},
				{4 * mib, mib},
				{5 * mib, mib},
				{6 * mib, mib},
				{7 * mib, mib},
				{8 * mib, mib},
			},
		},
		"the end of the blob is not passed": {[]read{{10*mib + 100, 11}}, [][2]int64{{10 * mib, 111}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			src := newSource(1, 10*mib+111)
			b := openBlob(t, openStore(t, t.TempDir(), Options{MaxReadAhead: -1, MaxRequest: mib}), src)
			var asked [][2]int64
			for _, r := range tc.reads {
				check(t, b, src, r.off, r.n)
				got := src.requests()
				sortRanges(got)
				asked = append(asked, got...)
			}
			if diff := cmp.Diff(tc.want, asked); diff != "" {
				t.Errorf("requests (-want +got):\n%s", diff)
			}
		})
	}
}

func sortRanges(r [][2]int64) {
	for i := range r {
		for j := i; j > 0 && r[j][0] < r[j-1][0]; j-- {
			r[j], r[j-1] = r[j-1], r[j]
		}
	}
}

func TestReadRangeAtTheEnd(t *testing.T) {
	t.Parallel()
	src := newSource(1, 100_001)
	b := openBlob(t, openStore(t, t.TempDir(), Options{}), src)
	for range 2 { // cold, warm
		p := make([]byte, 100)
		n, err := b.ReadRange(t.Context(), p, 100_001-40)
		if n != 40 || !errors.Is(err, io.EOF) || !bytes.Equal(p[:40], src.content[100_001-40:]) {
			t.Errorf("across the end: %d, %v", n, err)
		}
	}
	for _, off := range []int64{100_001, 1 << 62} {
		if n, err := b.ReadRange(t.Context(), make([]byte, 1), off); n != 0 || !errors.Is(err, io.EOF) {
			t.Errorf("at %d: %d, %v", off, n, err)
		}
	}
	if _, err := b.ReadRange(t.Context(), make([]byte, 1), -1); err == nil {
		t.Error("negative offset accepted")
	}
}

func TestEmptyBlob(t *testing.T) {
	t.Parallel()
	src := newSource(1, 0)
	b := openBlob(t, openStore(t, t.TempDir(), Options{}), src)
	if n, err := b.ReadRange(t.Context(), make([]byte, 1), 0); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("%d, %v", n, err)
	}
}

func TestForwardReaderIsReadAhead(t *testing.T) {
	t.Parallel()
	src := newSource(1, 64*mib)
	b := openBlob(t, openStore(t, t.TempDir(), Options{}), src)
	for off := int64(0); off < 16*mib; off += 128 * kib {
		check(t, b, src, off, 128*kib)
	}
	requests := len(src.requests())
	if requests > 30 { // 64 without read-ahead
		t.Errorf("%d requests for 16 MiB in order", requests)
	}
}

func TestRandomReaderIsNotReadAhead(t *testing.T) {
	t.Parallel()
	src := newSource(1, 64*mib)
	b := openBlob(t, openStore(t, t.TempDir(), Options{}), src)
	random := rand.New(rand.NewPCG(1, 2))
	var distinct int64
	seen := map[int64]bool{}
	for range 40 {
		off := random.Int64N(63*mib) &^ (4*kib - 1)
		check(t, b, src, off, 4*kib)
		if unit := off / (256 * kib); !seen[unit] {
			seen[unit] = true
			distinct += 256 * kib
		}
	}
	if got := src.fetched(); got > distinct*5/4 {
		t.Errorf("%d bytes fetched for reads in %d", got, distinct)
	}
}

func TestConcurrentMissesShareOneFetch(t *testing.T) {
	t.Parallel()
	src := newSource(1, mib)
	release := make(chan struct{})
	src.hook = func(context.Context, int64, int) error { <-release; return nil }
	s := openStore(t, t.TempDir(), Options{})
	first, second := openBlob(t, s, src), openBlob(t, s, src)
	var wg sync.WaitGroup
	for i := range 40 {
		b := first
		if i%2 == 0 {
			b = second
		}
		wg.Go(func() { check(t, b, src, int64(i)*100, 1000) })
	}
	eventually.True(t, "all readers to wait", func() bool {
		first.file.mu.Lock()
		defer first.file.mu.Unlock()
		return len(first.file.fetches) == 1 && first.file.fetches[0].waiters == 40
	})
	close(release)
	wg.Wait()
	if diff := cmp.Diff([][2]int64{{0, 256 * kib}}, src.requests()); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
}

func TestCancelledWaiterLeavesTheFetchToOthers(t *testing.T) {
	t.Parallel()
	src := newSource(1, mib)
	release := make(chan struct{})
	src.hook = func(ctx context.Context, _ int64, _ int) error {
		select {
		case <-release:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	b := openBlob(t, openStore(t, t.TempDir(), Options{}), src)
	ctx, cancel := context.WithCancel(t.Context())
	errs := make(chan error, 1)
	go func() { // its result is received below
		_, err := b.ReadRange(ctx, make([]byte, 10), 0)
		errs <- err
	}()
	waiters := func(n int) func() bool {
		return func() bool {
			b.file.mu.Lock()
			defer b.file.mu.Unlock()
			return len(b.file.fetches) == 1 && b.file.fetches[0].waiters == n
		}
	}
	eventually.True(t, "the first reader", waiters(1))
	var wg sync.WaitGroup
	wg.Go(func() { check(t, b, src, 100, 10) })
	eventually.True(t, "the second reader", waiters(2))
	cancel()
	if err := <-errs; !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled reader got %v", err)
	}
	close(release)
	wg.Wait()
	if n := len(src.requests()); n != 1 {
		t.Errorf("%d requests, want 1", n)
	}
}

func TestFetchEndsWithItsLastWaiter(t *testing.T) {
	t.Parallel()
	src := newSource(1, mib)
	ended := make(chan struct{})
	var once sync.Once
	src.hook = func(ctx context.Context, _ int64, _ int) error {
		var err error
		once.Do(func() { <-ctx.Done(); close(ended); err = ctx.Err() })
		return err
	}
	b := openBlob(t, openStore(t, t.TempDir(), Options{}), src)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err := b.ReadRange(ctx, make([]byte, 10), 0)
	if reason.Of(err) != reason.BudgetExceeded {
		t.Errorf("error %v, want budget-exceeded", err)
	}
	<-ended
	check(t, b, src, 0, 10) // and the next reader is not told of it
}

// TestPatientReaderOutlivesHurriedFetch: a fetch begun with a short deadline
// must not decide for a reader without one.
func TestPatientReaderOutlivesHurriedFetch(t *testing.T) {
	t.Parallel()
	src := newSource(1, mib)
	src.hook = func(ctx context.Context, _ int64, _ int) error {
		if _, hurried := ctx.Deadline(); hurried {
			<-ctx.Done()
			return ctx.Err()
		}
		return nil
	}
	b := openBlob(t, openStore(t, t.TempDir(), Options{}), src)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := b.ReadRange(ctx, make([]byte, 10), 0); err == nil {
			t.Error("hurried reader got bytes")
		}
	})
	eventually.True(t, "the hurried reader", func() bool {
		b.file.mu.Lock()
		defer b.file.mu.Unlock()
		return len(b.file.fetches) == 1
	})
	check(t, b, src, 0, 10)
	wg.Wait()
}

func TestFetchErrorReachesAllWaitersAndNothingStays(t *testing.T) {
	t.Parallel()
	src := newSource(1, mib)
	broken := reason.Errorf(reason.NotFound, "gone")
	release := make(chan struct{})
	var fail atomic.Bool
	fail.Store(true)
	src.hook = func(context.Context, int64, int) error {
		<-release
		if fail.Load() {
			return broken
		}
		return nil
	}
	b := openBlob(t, openStore(t, t.TempDir(), Options{}), src)
	var wg sync.WaitGroup
	for i := range 10 {
		wg.Go(func() {
			if _, err := b.ReadRange(t.Context(), make([]byte, 10), int64(i)); !errors.Is(err, broken) || reason.Of(err) != reason.NotFound {
				t.Errorf("reader %d: %v", i, err)
			}
		})
	}
	eventually.True(t, "all readers to wait", func() bool {
		b.file.mu.Lock()
		defer b.file.mu.Unlock()
		return len(b.file.fetches) == 1 && b.file.fetches[0].waiters == 10
	})
	close(release)
	wg.Wait()
	if got := b.Cached(); got != 0 {
		t.Errorf("%d bytes present after a failed fetch", got)
	}
	fail.Store(false)
	check(t, b, src, 0, 10)
}

func TestShortOriginIsAnError(t *testing.T) {
	t.Parallel()
	src := newSource(1, mib)
	desc := src.desc()
	src.content = src.content[:mib/2]
	s := openStore(t, t.TempDir(), Options{})
	if _, err := s.Blob(desc, src); reason.Of(err) != reason.SizeMismatch {
		t.Errorf("origin of another size: %v", err)
	}
}

func TestNewestOriginIsAskedFirstThenOlder(t *testing.T) {
	t.Parallel()
	old, recent := newSource(1, mib), newSource(1, mib)
	s := openStore(t, t.TempDir(), Options{})
	b := openBlob(t, s, old)
	b2 := openBlob(t, s, recent)
	check(t, b, old, 0, 10)
	if len(old.requests()) != 0 || len(recent.requests()) != 1 {
		t.Error("the older origin was asked")
	}
	recent.hook = func(context.Context, int64, int) error { return reason.Errorf(reason.Unauthorized, "no") }
	check(t, b, old, 512*kib, 10)
	if err := b2.Close(); err != nil {
		t.Fatal(err)
	}
	recent.requests()
	check(t, b, old, 800*kib, 10)
	if len(recent.requests()) != 0 {
		t.Error("the origin of a closed handle was asked")
	}
}

func TestContentSurvivesReopening(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	src := newSource(1, 5*mib+5)
	s := openStore(t, dir, Options{})
	b := openBlob(t, s, src)
	check(t, b, src, mib, 2*mib)
	check(t, b, src, 5*mib, 5)
	want := b.Cached()
	if err := errors.Join(b.Close(), s.Close()); err != nil {
		t.Fatal(err)
	}
	src.requests()

	s = openStore(t, dir, Options{})
	usage := s.Usage()
	if len(usage) != 1 || usage[0].Digest != src.desc().Digest || usage[0].Cached != want || usage[0].InUse {
		t.Errorf("usage after reopening: %+v, want %d bytes", usage, want)
	}
	b = openBlob(t, s, src)
	check(t, b, src, mib, 2*mib)
	check(t, b, src, 5*mib, 5)
	if got := src.requests(); len(got) != 0 {
		t.Errorf("fetched again: %v", got)
	}
}

func TestClosedHandles(t *testing.T) {
	t.Parallel()
	src := newSource(1, mib)
	s := openStore(t, t.TempDir(), Options{})
	a, b := openBlob(t, s, src), openBlob(t, s, src)
	for range 2 {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := a.ReadRange(t.Context(), make([]byte, 1), 0); !errors.Is(err, os.ErrClosed) {
		t.Errorf("closed handle: %v", err)
	}
	check(t, b, src, 0, 10)
	if err := s.Remove(src.desc().Digest); !errors.Is(err, ErrInUse) {
		t.Errorf("remove while open: %v", err)
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	if err := s.Remove(src.desc().Digest); err != nil {
		t.Error(err)
	}
	if names, _ := filepath.Glob(filepath.Join(s.dir, "*")); len(names) != 0 {
		t.Errorf("left after removal: %v", names)
	}
	c := openBlob(t, s, src)
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if _, err := c.ReadRange(t.Context(), make([]byte, 1), mib/2); !errors.Is(err, os.ErrClosed) {
		t.Errorf("read after the store was closed: %v", err)
	}
	if _, err := s.Blob(src.desc(), src); err == nil {
		t.Error("closed store opens blobs")
	}
}

func TestSecondProcessIsRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := openStore(t, dir, Options{})
	if _, err := Open(dir, Options{}); !errors.Is(err, ErrLocked) {
		t.Errorf("second open: %v", err)
	} else if !strings.Contains(err.Error(), dir) {
		t.Errorf("error does not name the directory: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	openStore(t, dir, Options{})
}

func TestEviction(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := openStore(t, dir, Options{MaxBytes: 3 * mib, LowBytes: 3 * mib})
	load := func(src *source) *Blob {
		b := openBlob(t, s, src)
		check(t, b, src, 0, mib)
		return b
	}
	kept := func() map[digest.Digest]bool {
		found := map[digest.Digest]bool{}
		for _, u := range s.Usage() {
			if u.Cached > 0 {
				found[u.Digest] = true
			}
		}
		return found
	}
	var srcs []*source
	for i := range 5 {
		srcs = append(srcs, newSource(byte(i+1), mib))
	}
	used := load(srcs[0]) // oldest, but stays open
	for _, src := range srcs[1:3] {
		if err := load(src).Close(); err != nil {
			t.Fatal(err)
		}
	}
	_ = load(srcs[3]).Close()
	if got := kept(); !got[srcs[0].desc().Digest] || got[srcs[1].desc().Digest] || !got[srcs[2].desc().Digest] || !got[srcs[3].desc().Digest] {
		t.Errorf("kept %v, want the open one and the last two", got)
	}

	// Blobs in use fill the cache: further reads are right, and not kept.
	more := newSource(9, 4*mib)
	b := load(more)
	check(t, b, more, 0, 4*mib)
	check(t, used, srcs[0], 0, mib)
	var total int64
	for _, u := range s.Usage() {
		total += u.Cached
	}
	if total > 3*mib {
		t.Errorf("%d bytes kept, at most %d allowed", total, 3*mib)
	}
}

func TestInvalidatedBlocksAreFetchedAgain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	src := newSource(1, mib)
	right := bytes.Clone(src.content)
	desc := src.desc()
	src.content[300_000] ^= 1
	s := openStore(t, dir, Options{})
	b, err := s.Blob(desc, src)
	if err != nil {
		t.Fatal(err)
	}
	check(t, b, src, 0, mib)
	s.Flush()
	src.content = right
	src.requests()
	if err := b.Invalidate(t.Context(), 300_000, 1); err != nil {
		t.Fatal(err)
	}
	m, err := readMap(osDisk{}, b.file.sparse.dir, mib, 4*kib)
	if err != nil || m.bytes() != mib-4*kib {
		t.Errorf("the map on disk still has the block: %v, %v", m, err)
	}
	check(t, b, src, 0, mib)
	if diff := cmp.Diff([][2]int64{{292 * kib, 4 * kib}}, src.requests()); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
	if got := s.Usage()[0].Cached; got != mib {
		t.Errorf("%d bytes counted, want %d", got, mib)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestPrefetchFetchesAhead(t *testing.T) {
	t.Parallel()
	src := newSource(1, 40*mib)
	b := openBlob(t, openStore(t, t.TempDir(), Options{}), src)
	if err := b.Prefetch(t.Context(), mib, 100*mib); err != nil {
		t.Fatal(err)
	}
	if got := b.Cached(); got != 39*mib {
		t.Errorf("%d bytes present, want %d", got, 39*mib)
	}
	src.requests()
	check(t, b, src, mib, 39*mib)
	if got := src.requests(); len(got) != 0 {
		t.Errorf("fetched again: %v", got)
	}
}

func TestHostileDescriptors(t *testing.T) {
	t.Parallel()
	s := openStore(t, t.TempDir(), Options{})
	for name, desc := range map[string]ocispec.Descriptor{
		"a path in the digest": {Digest: "sha256:../../../etc/passwd", Size: 1},
		"no digest":            {Size: 1},
		"negative size":        {Digest: digest.FromString("x"), Size: -1},
		"size of an exabyte":   {Digest: digest.FromString("x"), Size: 1 << 60},
	} {
		if _, err := s.Blob(desc, nil); reason.Of(err) != reason.ArtifactInvalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestMapsAreBounded: a descriptor says how large a blob is, and costs memory.
func TestMapsAreBounded(t *testing.T) {
	t.Parallel()
	var opts Options
	if err := opts.setDefaults(); err != nil {
		t.Fatal(err)
	}
	for size, want := range map[int64]int64{1: 4 * kib, 16 << 30: 4 * kib, 16<<30 + 4*kib: 8 * kib, 100 << 30: 32 * kib, maxBlobSize: 256 * kib} {
		if got := opts.blockSize(size); got != want {
			t.Errorf("a blob of %d bytes has blocks of %d, want %d", size, got, want)
		}
	}
}

func TestOptionsAreChecked(t *testing.T) {
	t.Parallel()
	for _, opts := range []Options{
		{BlockSize: 3 << 16}, {BlockSize: 512}, {FetchSize: 2048}, {MaxRequest: 1000}, {MaxBuffered: 1}, {BlockSize: -4096},
	} {
		if s, err := Open(t.TempDir(), opts); err == nil {
			t.Errorf("%+v accepted", opts)
			_ = s.Close()
		}
	}
}

// TestManyReaders is for the race detector: readers, fillers, invalidations,
// openings and closings of the same blobs under a cap that forces evictions.
func TestManyReaders(t *testing.T) {
	t.Parallel()
	s, err := Open(t.TempDir(), Options{MaxBytes: 6 * mib, FlushInterval: 3 * time.Millisecond, MaxBuffered: 4 * mib})
	if err != nil {
		t.Fatal(err)
	}
	var srcs []*source
	for i := range 3 {
		srcs = append(srcs, newSource(byte(i+1), 3*mib+int64(i)))
	}
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(uint64(i), 1))
			for range 8 {
				src := srcs[random.IntN(len(srcs))]
				b, err := s.Blob(src.desc(), src)
				if err != nil {
					t.Error(err)
					return
				}
				for range 8 {
					off := random.Int64N(src.Size())
					n := min(random.Int64N(300_000)+1, src.Size()-off)
					switch random.IntN(10) {
					case 0:
						err = b.Invalidate(t.Context(), off, n)
					case 1:
						err = b.Prefetch(t.Context(), off, n)
					case 2:
						ctx, cancel := context.WithTimeout(t.Context(), time.Duration(random.IntN(1000))*time.Microsecond)
						_, _ = b.ReadRange(ctx, make([]byte, n), off) // may or may not be in time
						cancel()
					default:
						p := make([]byte, n)
						_, err = b.ReadRange(t.Context(), p, off)
						if err == nil && !bytes.Equal(p, src.content[off:off+n]) {
							err = fmt.Errorf("wrong bytes at %d", off)
						}
					}
					if err != nil {
						t.Error(err)
					}
				}
				if err := b.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for _, u := range s.Usage() {
		if u.InUse || u.Cached < 0 || u.Cached > u.Size {
			t.Errorf("usage %+v", u)
		}
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func BenchmarkWarmRead(b *testing.B) {
	src := newSource(1, 64*mib)
	blob := openBlob(b, openStore(b, b.TempDir(), Options{}), src)
	if err := blob.Prefetch(b.Context(), 0, 64*mib); err != nil {
		b.Fatal(err)
	}
	for _, n := range []int64{4 * kib, 128 * kib} {
		b.Run(fmt.Sprintf("%dKiB", n/kib), func(b *testing.B) {
			b.SetBytes(n)
			b.ReportAllocs()
			p := make([]byte, n)
			random := rand.New(rand.NewPCG(1, 2))
			ctx := b.Context()
			for b.Loop() {
				if _, err := blob.ReadRange(ctx, p, random.Int64N(63*mib)&^(4*kib-1)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

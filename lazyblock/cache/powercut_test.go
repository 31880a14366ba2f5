package cache

import (
	"bytes"
	"io"
	"io/fs"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// volatileDisk is a file system in memory that can lose power. Writes to a file
// are durable once it is synced, names once their directory is; until then each
// page and each name may have reached the disk or not.
type volatileDisk struct {
	mu    sync.Mutex
	full  bool              // writes fail with ENOSPC
	used  bool              // statfs says that nothing is free
	sick  bool              // syncs fail with EIO
	names map[string]*inode // as seen now
	ops   []nameOp          // not yet durable, in order
	saved map[string]*inode // durable names
}

type nameOp struct {
	dir   string
	apply func(names map[string]*inode)
}

type inode struct {
	disk    *volatileDisk
	now     []byte
	durable []byte
	pending []pendingWrite
}

type pendingWrite struct {
	off  int64
	data []byte // nil: truncate to off
}

const page = 4096

func newVolatileDisk() *volatileDisk {
	return &volatileDisk{names: map[string]*inode{}, saved: map[string]*inode{}}
}

// cut returns what is found after a power cut now.
func (d *volatileDisk) cut(random *rand.Rand) *volatileDisk {
	d.mu.Lock()
	defer d.mu.Unlock()
	after := newVolatileDisk()
	copies := map[*inode]*inode{}
	names := map[string]*inode{}
	for path, node := range d.saved {
		names[path] = node
	}
	// A journalling file system keeps the order of names, up to some point;
	// others promise nothing.
	journal, upTo := random.IntN(2) == 0, random.IntN(len(d.ops)+1)
	for i, op := range d.ops {
		if journal && i < upTo || !journal && random.IntN(2) == 0 {
			op.apply(names)
		}
	}
	for path, node := range names {
		if copies[node] == nil {
			copies[node] = node.survivor(after, random)
		}
		after.names[path] = copies[node]
		after.saved[path] = copies[node]
	}
	return after
}

func (n *inode) survivor(after *volatileDisk, random *rand.Rand) *inode {
	content := bytes.Clone(n.durable)
	for _, w := range n.pending {
		if w.data == nil {
			if random.IntN(2) == 0 {
				content = resize(content, w.off)
			}
			continue
		}
		for at := int64(0); at < int64(len(w.data)); at += page {
			if random.IntN(2) == 0 {
				part := w.data[at:min(at+page, int64(len(w.data)))]
				content = resize(content, max(int64(len(content)), w.off+at+int64(len(part))))
				copy(content[w.off+at:], part)
			}
		}
	}
	return &inode{disk: after, now: bytes.Clone(content), durable: content}
}

func resize(p []byte, n int64) []byte {
	if n <= int64(len(p)) {
		return p[:n]
	}
	return append(p, make([]byte, n-int64(len(p)))...)
}

// change makes a change to names now, and durable at the next SyncDir.
func (d *volatileDisk) change(path string, apply func(map[string]*inode)) {
	apply(d.names)
	d.ops = append(d.ops, nameOp{filepath.Dir(path), apply})
}

func (d *volatileDisk) SyncDir(dir string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.sick {
		return syscall.EIO
	}
	d.ops = slices.DeleteFunc(d.ops, func(op nameOp) bool {
		if op.dir == dir {
			op.apply(d.saved)
		}
		return op.dir == dir
	})
	return nil
}

func (d *volatileDisk) Lock(string) (io.Closer, error)     { return io.NopCloser(nil), nil }
func (d *volatileDisk) MkdirAll(string) error              { return nil } // directories are implied
func (d *volatileDisk) ModTime(string) (time.Time, error)  { return time.Time{}, nil }
func (d *volatileDisk) SetModTime(string, time.Time) error { return nil }

func (d *volatileDisk) Space(string) (free, size int64, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.used {
		return 0, 1 << 40, nil
	}
	return 1 << 40, 1 << 40, nil
}

func (d *volatileDisk) ReadDir(dir string) ([]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var names []string
	for path := range d.names {
		if rest, ok := strings.CutPrefix(path, dir+"/"); ok {
			name, _, _ := strings.Cut(rest, "/")
			if !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	return names, nil
}

func (d *volatileDisk) ReadFile(path string, _ int64) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	node, ok := d.names[path]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return bytes.Clone(node.now), nil
}

func (d *volatileDisk) OpenFile(path string, create bool) (diskFile, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	node, ok := d.names[path]
	if ok {
		return node, nil
	}
	if !create {
		return nil, fs.ErrNotExist
	}
	node = &inode{disk: d}
	d.change(path, func(names map[string]*inode) { names[path] = node })
	return node, nil
}

func (d *volatileDisk) Rename(from, to string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.change(to, func(names map[string]*inode) {
		if node, ok := names[from]; ok {
			names[to] = node
			delete(names, from)
		}
	})
	return nil
}

func (d *volatileDisk) Remove(path string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.change(path, func(names map[string]*inode) { delete(names, path) })
	return nil
}

func (n *inode) ReadAt(p []byte, off int64) (int, error) {
	n.disk.mu.Lock()
	defer n.disk.mu.Unlock()
	return bytes.NewReader(n.now).ReadAt(p, off)
}

func (n *inode) WriteAt(p []byte, off int64) (int, error) {
	n.disk.mu.Lock()
	defer n.disk.mu.Unlock()
	if n.disk.full {
		return 0, syscall.ENOSPC
	}
	n.now = resize(n.now, max(int64(len(n.now)), off+int64(len(p))))
	copy(n.now[off:], p)
	n.pending = append(n.pending, pendingWrite{off, bytes.Clone(p)})
	return len(p), nil
}

func (n *inode) Truncate(size int64) error {
	n.disk.mu.Lock()
	defer n.disk.mu.Unlock()
	n.now = resize(n.now, size)
	n.pending = append(n.pending, pendingWrite{off: size})
	return nil
}

func (n *inode) Size() (int64, error) {
	n.disk.mu.Lock()
	defer n.disk.mu.Unlock()
	return int64(len(n.now)), nil
}

func (n *inode) Sync() error {
	n.disk.mu.Lock()
	defer n.disk.mu.Unlock()
	if n.disk.sick {
		// As Linux does it: the pages are dropped, and the next sync succeeds.
		n.now, n.pending = bytes.Clone(n.durable), nil
		return syscall.EIO
	}
	n.durable, n.pending = bytes.Clone(n.now), nil
	return nil
}

func (n *inode) Close() error { return nil }

var (
	_ disk     = (*volatileDisk)(nil)
	_ diskFile = (*inode)(nil)
)

// TestPowerCut reads, invalidates, flushes, closes and reopens at random, cuts
// the power, and reads everything again: no byte may be wrong. The origin lies
// until the reader notices and invalidates, so that old bytes differ from new.
func TestPowerCut(t *testing.T) {
	t.Parallel()
	lost, kept, sealed := 0, 0, 0
	for seed := range uint64(50) {
		random := rand.New(rand.NewPCG(seed, 1))
		truth := newSource(byte(seed), 400*kib+random.Int64N(300*kib))
		desc := truth.desc()
		d := newVolatileDisk()
		for range 3 { // lives
			after, present := live(t, d, truth, desc, random)
			d = after
			survived, isSealed := checkAfterCut(t, d, truth, desc, seed)
			if isSealed {
				sealed++
			}
			kept += int(survived)
			lost += int(present - survived)
			if t.Failed() {
				return
			}
		}
	}
	if kept == 0 || lost == 0 || sealed == 0 {
		t.Errorf("%d bytes survived, %d were lost, %d blobs stayed sealed: the test tests nothing", kept, lost, sealed)
	}
}

func cacheOpts() Options {
	return Options{BlockSize: 4 * kib, FetchSize: 16 * kib, MaxRequest: 64 * kib, MaxReadAhead: -1, FlushInterval: time.Hour}
}

// live is one life of a process. It returns the disk as a cut finds it, and how
// much was present then.
func live(t *testing.T, d *volatileDisk, truth *source, desc ocispec.Descriptor, random *rand.Rand) (*volatileDisk, int64) {
	t.Helper()
	s, err := openOn(d, "/cache", cacheOpts())
	if err != nil {
		t.Fatal(err)
	}
	origin := &source{content: bytes.Clone(truth.content)}
	b, err := s.Blob(desc, origin)
	if err != nil {
		t.Fatal(err)
	}
	for range random.IntN(30) {
		off := random.Int64N(truth.Size())
		n := min(random.Int64N(40*kib)+1, truth.Size()-off)
		switch random.IntN(9) {
		case 0:
			s.Flush()
		case 1: // bytes that turn out to be wrong, and are noticed
			if err := b.Invalidate(t.Context(), off, n); err != nil {
				t.Fatal(err)
			}
			origin.content[off] ^= 0xff
			_, _ = b.ReadRange(t.Context(), make([]byte, n), off)
			origin.content[off] ^= 0xff
			if err := b.Invalidate(t.Context(), off, 1); err != nil {
				t.Fatal(err)
			}
		case 2:
			if err := b.Close(); err != nil {
				t.Fatal(err)
			}
			if random.IntN(4) == 0 {
				if err := s.Remove(desc.Digest); err != nil {
					t.Fatal(err)
				}
			}
			if b, err = s.Blob(desc, origin); err != nil {
				t.Fatal(err)
			}
		case 3: // all of it, and compared
			err := b.Prefetch(t.Context(), 0, truth.Size())
			if err == nil {
				err = b.Seal(t.Context(), desc.Digest, atOnce)
			}
			if err != nil || !b.Sealed() {
				t.Fatal(err)
			}
		default:
			check(t, b, truth, off, n)
		}
	}
	after, present := d.cut(random), b.Cached()
	_ = b.Close() // on the disk that is no more
	_ = s.Close()
	return after, present
}

// checkAfterCut reads everything that is still there, without an origin to help.
func checkAfterCut(t *testing.T, d *volatileDisk, truth *source, desc ocispec.Descriptor, seed uint64) (survived int64, sealed bool) {
	t.Helper()
	s, err := openOn(d, "/cache", cacheOpts())
	if err != nil {
		t.Fatal(err)
	}
	b, err := s.Blob(desc, nil)
	if err != nil {
		t.Fatal(err)
	}
	survived = b.Cached()
	if sealed = b.Sealed(); sealed && survived != truth.Size() {
		t.Errorf("seed %d: sealed, with %d of %d bytes", seed, survived, truth.Size())
	}
	for off := int64(0); off < truth.Size(); off += 4 * kib {
		p := make([]byte, min(4*kib, truth.Size()-off))
		if _, err := b.ReadRange(t.Context(), p, off); err == nil && !bytes.Equal(p, truth.content[off:off+int64(len(p))]) {
			t.Errorf("seed %d: wrong bytes at %d after a power cut", seed, off)
			break
		}
	}
	_ = b.Close()
	_ = s.Close()
	return survived, sealed
}

func TestFullDiskMakesReadsSlowerNotWrong(t *testing.T) {
	t.Parallel()
	d := newVolatileDisk()
	logs, logger := observe()
	opts := cacheOpts()
	opts.Log = logger
	s, err := openOn(d, "/cache", opts)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	src := newSource(1, 300*kib)
	b := openBlob(t, s, src)
	defer func() { _ = b.Close() }()
	unused := newSource(2, 100*kib)
	other := openBlob(t, s, unused)
	check(t, other, unused, 0, 100*kib)
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}

	d.setFull(true)
	for range 2 {
		check(t, b, src, 0, 300*kib)
	}
	if got := b.Cached(); got != 0 {
		t.Errorf("%d bytes present on a full disk", got)
	}
	if usage := s.Usage(); len(usage) != 1 {
		t.Errorf("unused blobs were not given up for room: %+v", usage)
	}
	if n := logs.count("cannot keep"); n != 1 {
		t.Errorf("told %d times, want once", n)
	}
	d.setFull(false)
	check(t, b, src, 0, 300*kib)
	src.requests()
	check(t, b, src, 0, 300*kib)
	if got := src.requests(); len(got) != 0 {
		t.Errorf("not kept after the disk had room again: %v", got)
	}
	if n := logs.count("again"); n != 1 {
		t.Errorf("recovery told %d times, want once", n)
	}
}

func (d *volatileDisk) setFull(full bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.full = full
}

func (d *volatileDisk) setSick(sick bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.sick = sick
}

// TestFailedSyncIsNotBelievedLater: Linux reports a failed write-back once and
// drops the pages; a later sync that succeeds says nothing about them.
func TestFailedSyncIsNotBelievedLater(t *testing.T) {
	t.Parallel()
	d := newVolatileDisk()
	s, err := openOn(d, "/cache", cacheOpts())
	if err != nil {
		t.Fatal(err)
	}
	src := newSource(1, 300*kib)
	b := openBlob(t, s, src)
	check(t, b, src, 0, 16*kib)
	s.Flush()
	check(t, b, src, 0, 300*kib)
	d.setSick(true)
	s.Flush()
	d.setSick(false)
	check(t, b, src, 0, 300*kib)
	s.Flush()
	check(t, b, src, 0, 300*kib)
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	_ = s.Close()
	after := d.cut(rand.New(rand.NewPCG(1, 1)))
	if got, _ := checkAfterCut(t, after, src, src.desc(), 0); got != 16*kib {
		t.Errorf("%d bytes survived, want the %d that were synced", got, 16*kib)
	}
}

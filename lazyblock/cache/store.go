package cache

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/zap"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/lazyblock"
)

var (
	// ErrLocked says that another process uses the directory.
	ErrLocked = errors.New("in use by another process")
	// ErrInUse says that a blob is open.
	ErrInUse = errors.New("blob is in use")
)

// What a descriptor can make a map take of memory is bounded: maxBlocks bits, half
// a MiB. A blob has larger blocks where it would have more of them, up to
// maxBlobSize; the largest layers in the wild are some 100 GB.
const (
	maxBlocks   = 1 << 22
	maxBlobSize = 1 << 40
)

// Options configure a Store. The zero value has the defaults.
type Options struct {
	// BlockSize is the unit in which presence is noted: a power of two from
	// 4 KiB to 1 MiB, default 4 KiB; blobs of more than 16 GiB have a larger one. A
	// blob cached with another is fetched anew.
	BlockSize int64
	// FetchSize is what a miss fetches at least, aligned: a power of two of at
	// least BlockSize, default 256 KiB.
	FetchSize int64
	// Guess is how much is fetched, without anybody waiting, behind a miss that
	// goes on with no earlier read: half of this at first, then between nothing
	// and this, as it proves to be of use. Default 2 MiB, negative: nothing.
	Guess int64
	// MaxRequest is the longest request made of neighbouring misses, default 4 MiB.
	MaxRequest int64
	// MaxReadAhead is how far a reader that goes forward is read ahead of at
	// most, default 2 MiB. Negative: not at all.
	MaxReadAhead int64
	// MaxBytes bounds what is kept; blobs that nobody has open are removed,
	// least recently used first, to stay below it. When those in use fill it,
	// further reads are not kept. 0: no bound.
	MaxBytes int64
	// LowBytes is down to where unused blobs are removed once MaxBytes would be
	// passed, so that not every read has to make room. Default nine tenths of it.
	LowBytes int64
	// KeepFree is how many bytes of the file system are left to others: where less
	// is free, unused blobs are removed, and then nothing is kept. Default 1 GiB, or
	// a twentieth of the file system if that is less. Negative: the file system may
	// be filled.
	KeepFree int64
	// SpareOfDisk is the percentage of the file system below which Spare finds no
	// room: what nobody waits for must not bring the node to where the kubelet
	// removes images. Default 15, which is its imagefs.available (evictionHard of its
	// default configuration). Negative: the file system may be filled.
	SpareOfDisk int
	// MaxBuffered bounds the memory of all fetches under way, default 64 MiB;
	// those that nobody waits for take half of it, or one request, at most.
	MaxBuffered int64
	// FlushInterval is how often maps are written, default 5s: what a power cut,
	// or the death of the process, can lose.
	FlushInterval time.Duration

	Log *zap.Logger // default: silent
}

func (o *Options) setDefaults() error {
	for _, d := range []struct {
		field *int64
		value int64
	}{
		{&o.BlockSize, 4 << 10},
		{&o.FetchSize, 256 << 10},
		{&o.Guess, 2 << 20},
		{&o.MaxRequest, 4 << 20},
		{&o.MaxReadAhead, 2 << 20},
		{&o.MaxBuffered, 64 << 20},
	} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	if o.SpareOfDisk == 0 {
		o.SpareOfDisk = 15
	}
	if o.LowBytes == 0 {
		o.LowBytes = o.MaxBytes - o.MaxBytes/10
	}
	if o.FlushInterval == 0 {
		o.FlushInterval = 5 * time.Second
	}
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	switch {
	case !powerOfTwo(o.BlockSize) || o.BlockSize < 4<<10 || o.BlockSize > 1<<20:
		return fmt.Errorf("block size %d is not a power of two from 4 KiB to 1 MiB", o.BlockSize)
	case !powerOfTwo(o.FetchSize) || o.FetchSize < o.BlockSize:
		return fmt.Errorf("fetch size %d is not a power of two of at least the block size", o.FetchSize)
	case o.MaxRequest < o.FetchSize || o.MaxRequest%o.BlockSize != 0:
		return fmt.Errorf("longest request %d is not a multiple of the block size, of at least the fetch size", o.MaxRequest)
	case o.LowBytes < 0 || o.LowBytes > o.MaxBytes:
		return fmt.Errorf("low mark %d is not between 0 and the %d bytes kept at most", o.LowBytes, o.MaxBytes)
	case o.MaxBuffered < o.MaxRequest:
		return fmt.Errorf("%d bytes of buffers hold no request of %d", o.MaxBuffered, o.MaxRequest)
	}
	return nil
}

// blockSize is that of a blob of so many bytes.
func (o *Options) blockSize(size int64) int64 {
	n := o.BlockSize
	for size/n > maxBlocks && 2*n <= o.FetchSize {
		n *= 2
	}
	return n
}

func powerOfTwo(n int64) bool { return n > 0 && n&(n-1) == 0 }

// Store is a directory of cached blobs. It is safe for concurrent use.
type Store struct {
	dir     string // with the layout's version
	opts    Options
	disk    disk
	lock    io.Closer
	buffers *buffers
	budget  *budget
	waits   waits // of all readers for their origins
	counts  counts

	stop    chan struct{}
	flusher sync.WaitGroup

	mu      sync.Mutex
	entries map[string]*entry // by directory name
	bytes   int64             // of all entries
	writing int64             // bytes counted there that are not yet in their files
	refused int64             // bytes of the shortest piece that could not be kept lately; 0: all are kept
	closed  bool
}

// entry is a blob that has a directory, open or not.
type entry struct {
	name   string
	digest digest.Digest
	size   int64

	bytes int64     // kept of it
	used  time.Time // when it was last opened or closed
	refs  int       // open handles

	file    *file         // while refs > 0
	closing chan struct{} // not nil while the last handle's file is being closed
}

// Open takes dir, made if need be, for this process. What an earlier one left in
// it is there again, as far as it was made durable.
func Open(dir string, opts Options) (*Store, error) { return openOn(osDisk{}, dir, opts) }

func openOn(d disk, dir string, opts Options) (*Store, error) {
	if err := opts.setDefaults(); err != nil {
		return nil, fmt.Errorf("open cache %s: %w", dir, err)
	}
	s := &Store{
		dir: filepath.Join(dir, "v1"), opts: opts, disk: d,
		buffers: newBuffers(opts.MaxRequest),
		budget:  newBudget(opts),
		stop:    make(chan struct{}),
		entries: make(map[string]*entry),
	}
	if err := d.MkdirAll(s.dir); err != nil {
		return nil, fmt.Errorf("open cache %s: %w", dir, err)
	}
	lock, err := d.Lock(filepath.Join(dir, "lock"))
	if err != nil {
		return nil, fmt.Errorf("open cache %s: %w", dir, err)
	}
	s.lock = lock
	if err := s.scan(); err != nil {
		return nil, errors.Join(fmt.Errorf("open cache %s: %w", dir, err), lock.Close())
	}
	s.mu.Lock()
	s.makeRoom(0)
	s.mu.Unlock()
	s.flusher.Go(s.flushRegularly) // Close waits for it
	return s, nil
}

// scan learns what is there, and removes what cannot be believed.
func (s *Store) scan() error {
	names, err := s.disk.ReadDir(s.dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		e, ok := parseEntryName(name)
		if !ok {
			continue // not ours
		}
		dir := filepath.Join(s.dir, name)
		m, err := readMap(s.disk, dir, e.size, s.opts.blockSize(e.size))
		if err != nil {
			s.opts.Log.Info("removing a cached blob without a valid map", zap.String("dir", dir), zap.Error(err))
			if err := removeEntry(s.disk, dir, true); err != nil {
				s.opts.Log.Warn("removing a cached blob", zap.String("dir", dir), zap.Error(err))
			}
			continue
		}
		e.bytes = m.bytes()
		if e.used, err = s.disk.ModTime(dir); err != nil {
			return err
		}
		s.entries[name] = e
		s.bytes += e.bytes
	}
	return nil
}

// entryName is the name of a blob's directory. The size is part of it, so that a
// wrong descriptor cannot spoil a right one's.
func entryName(d digest.Digest, size int64) string {
	return fmt.Sprintf("%s-%s-%d", d.Algorithm(), d.Encoded(), size)
}

func parseEntryName(name string) (*entry, bool) {
	parts := strings.Split(name, "-")
	if len(parts) != 3 {
		return nil, false
	}
	d := digest.NewDigestFromEncoded(digest.Algorithm(parts[0]), parts[1])
	size, err := strconv.ParseInt(parts[2], 10, 64)
	if err != nil || d.Validate() != nil || size < 0 || size > maxBlobSize || entryName(d, size) != name {
		return nil, false
	}
	return &entry{name: name, digest: d, size: size}, true
}

// Blob opens the blob that desc names. What is missing of it is read from
// origin, which may be nil: then only other handles' origins are asked, the
// newest first. The handle must be closed; origin is used until then.
func (s *Store) Blob(desc ocispec.Descriptor, origin lazyblock.RangeReader) (*Blob, error) {
	if err := desc.Digest.Validate(); err != nil {
		return nil, reason.Errorf(reason.ArtifactInvalid, "open cached blob %q: %w", desc.Digest, err)
	}
	if desc.Size < 0 || desc.Size > maxBlobSize {
		return nil, reason.Errorf(reason.ArtifactInvalid, "open cached blob %s: %d bytes long", desc.Digest, desc.Size)
	}
	if origin != nil && origin.Size() != desc.Size {
		return nil, reason.Errorf(reason.SizeMismatch, "open cached blob %s: origin has %d bytes, descriptor says %d",
			desc.Digest, origin.Size(), desc.Size)
	}
	name := entryName(desc.Digest, desc.Size)
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		if s.closed {
			return nil, fmt.Errorf("open cached blob %s: cache is closed", desc.Digest)
		}
		e, ok := s.entries[name]
		if !ok {
			e = &entry{name: name, digest: desc.Digest, size: desc.Size}
			s.entries[name] = e
		}
		if e.closing == nil {
			return s.openEntry(e, origin)
		}
		s.awaitClosing(e)
	}
}

// awaitClosing lets go of s.mu until e's file is closed.
func (s *Store) awaitClosing(e *entry) {
	closing := e.closing
	s.mu.Unlock()
	<-closing
	s.mu.Lock()
}

func (s *Store) openEntry(e *entry, origin lazyblock.RangeReader) (*Blob, error) {
	if e.file == nil {
		sp, err := openSparse(s.disk, filepath.Join(s.dir, e.name), e.size, s.opts.blockSize(e.size))
		if err != nil {
			return nil, fmt.Errorf("open cached blob %s: %w", e.digest, err)
		}
		kept := sp.bytes()
		s.bytes += kept - e.bytes // the map may have been lost meanwhile
		e.bytes = kept
		e.file = newFile(s, e, sp)
	}
	e.refs++
	e.used = time.Now()
	b := &Blob{file: e.file, origin: origin}
	e.file.addOrigin(b)
	return b, nil
}

// release gives back one handle; the last one closes the file.
func (s *Store) release(e *entry) error {
	s.mu.Lock()
	e.used = time.Now()
	if e.refs--; e.refs > 0 {
		s.mu.Unlock()
		return nil
	}
	f := e.file
	closing := make(chan struct{})
	e.file, e.closing = nil, closing
	s.mu.Unlock()

	err := f.shutdown()
	_ = s.disk.SetModTime(filepath.Join(s.dir, e.name), e.used) // only the order of eviction after a restart

	s.mu.Lock()
	defer s.mu.Unlock()
	e.closing = nil
	close(closing)
	kept := f.sparse.durableBytes() // less than was counted if the disk failed
	s.bytes += kept - e.bytes
	e.bytes = kept
	if !s.closed {
		s.makeRoom(0)
	}
	return err
}

// Remove removes a blob, or returns ErrInUse while somebody has it open. To
// remove what is not there is no error.
func (s *Store) Remove(d digest.Digest) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.entries {
		if e.digest == d && (e.refs > 0 || e.closing != nil) {
			return fmt.Errorf("remove cached blob %s: %w", d, ErrInUse)
		}
	}
	var errs []error
	for _, e := range s.entries {
		if e.digest == d {
			errs = append(errs, s.remove(e))
		}
	}
	return errors.Join(errs...)
}

func (s *Store) remove(e *entry) error {
	delete(s.entries, e.name)
	s.bytes -= e.bytes
	if err := removeEntry(s.disk, filepath.Join(s.dir, e.name), true); err != nil {
		return fmt.Errorf("remove cached blob %s: %w", e.digest, err)
	}
	return nil
}

// Usage is what a Store keeps of one blob.
type Usage struct {
	Digest   digest.Digest
	Size     int64 // of the whole blob
	Cached   int64 // bytes of it on disk
	InUse    bool
	LastUsed time.Time
}

// Usage lists all blobs, in no order.
func (s *Store) Usage() []Usage {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]Usage, 0, len(s.entries))
	for _, e := range s.entries {
		list = append(list, Usage{e.digest, e.size, e.bytes, e.refs > 0 || e.closing != nil, e.used})
	}
	return list
}

// Close makes everything durable and gives the directory free. Blobs still open
// fail from then on.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	var open []*entry
	for _, e := range s.entries {
		for e.closing != nil {
			s.awaitClosing(e)
		}
		if e.file != nil {
			open = append(open, e)
		}
	}
	s.mu.Unlock()
	close(s.stop)
	s.flusher.Wait()
	var errs []error
	for _, e := range open {
		errs = append(errs, e.file.shutdown())
	}
	return errors.Join(append(errs, s.lock.Close())...)
}
